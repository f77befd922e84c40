import asyncio

import aiokafka.errors
import asyncpg
import httpx
import pytest
import redis
from asyncpg.exceptions import _base

from orderloop import postgres
from orderloop.errors import MalformedEvent, OrderLoopError, Permanent, Transient, is_transient, reason
from orderloop.settings import PostgresSettings
from tests.support.databases import Database

CANARY = "canary-13800138000"
# One error per SQLSTATE that asyncpg knows: class of the code -> whether waiting helps.
CLASSES = {
    **dict.fromkeys(("08", "25", "28", "3D", "40", "53", "55", "57", "58", "XX"), True),
    **dict.fromkeys(("0A", "21", "22", "23", "42", "44", "54", "P0"), False),
}


def known() -> list[type[asyncpg.PostgresError]]:
    found = [one for one in vars(asyncpg.exceptions).values() if isinstance(one, type)]
    # What asyncpg says by a class below a SQLSTATE's own is tested by name.
    return [one for one in found if issubclass(one, asyncpg.PostgresError) and "sqlstate" in vars(one)]


def test_the_database_speaks_of_itself_or_of_the_data() -> None:
    for error in known():
        expected = CLASSES.get(str(error.sqlstate)[:2])  # type: ignore[attr-defined]
        assert expected is None or is_transient(error("x")) is expected, error


@pytest.mark.parametrize(
    "error",
    [
        Transient("later"),
        OSError("network is unreachable"),
        ConnectionResetError(),
        TimeoutError(),
        asyncpg.InterfaceError("connection is closed"),
        asyncpg.ConnectionDoesNotExistError("closed in the middle of operation"),
        asyncpg.InternalClientError("unexpected message"),
        asyncpg.InvalidCachedStatementError("a migration changed the table under a prepared statement"),
        aiokafka.errors.KafkaConnectionError(),
        aiokafka.errors.RequestTimedOutError(),
        redis.ConnectionError(),
        redis.TimeoutError(),
        httpx.ConnectError("refused"),
        ExceptionGroup("all", [OSError(), TimeoutError()]),
    ],
    ids=repr,
)
def test_the_world_is_retried(error: Exception) -> None:
    assert is_transient(error)


@pytest.mark.parametrize(
    "error",
    [
        OrderLoopError(),
        Permanent(),
        MalformedEvent(),
        ValueError(),
        KeyError("phone"),
        _base.DataError("invalid input for query argument $1: 'x' (an integer is required)"),
        asyncpg.UniqueViolationError("duplicate"),
        aiokafka.errors.MessageSizeTooLargeError(),
        ExceptionGroup("mixed", [OSError(), ValueError()]),
    ],
    ids=repr,
)
def test_data_is_parked(error: Exception) -> None:
    assert not is_transient(error)


@pytest.mark.parametrize(
    ("query", "argument", "transient"),
    [
        ("select $1::int", 10**12, False),
        ("select $1::text", "a\0b", False),
        ("select $1::text::int", CANARY, False),
        ("insert into outbox_parked (order_no, outbox_id, reason) select $1, null, 'x'", CANARY, False),
        ("select $1::text, pg_sleep(9)", CANARY, True),
    ],
)
async def test_what_a_real_server_refuses_is_told_apart_and_never_quoted(
    plumbed: Database, query: str, argument: object, transient: bool
) -> None:
    conn = await asyncpg.connect(plumbed.owner_url, server_settings={"statement_timeout": "100ms"})
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError)) as refused:
        await conn.execute(query, argument)
    await conn.close()

    assert is_transient(refused.value) is transient
    assert CANARY not in reason(refused.value)
    assert type(refused.value).__name__ in reason(refused.value)


async def test_a_killed_connection_and_a_closed_port_are_the_world(
    postgres_settings: PostgresSettings, admin: asyncpg.Connection
) -> None:
    conn = await postgres.connect(postgres_settings.url.get_secret_value(), application_name="victim")
    pid = await conn.fetchval("select pg_backend_pid()")
    await admin.execute("select pg_terminate_backend($1)", pid)
    for _ in range(2):  # the first notices, the second finds it closed, or (seen) asyncpg's protocol in between
        with pytest.raises(
            (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)
        ) as lost:
            await conn.fetchval("select 1")
        assert is_transient(lost.value)

    server = await asyncio.start_server(lambda _r, w: w.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)) as cut:
            await asyncpg.connect(f"postgresql://nobody@127.0.0.1:{port}/x", timeout=5, ssl=False)
    assert is_transient(cut.value)
    with pytest.raises(OSError, match=r"refused|Connect") as refused:
        await asyncpg.connect(f"postgresql://nobody@127.0.0.1:{port}/x", timeout=5)
    assert is_transient(refused.value)


def test_a_reason_says_where_but_not_what() -> None:
    with pytest.raises(ValueError, match=CANARY) as refused:
        int(CANARY)

    assert reason(refused.value).startswith("ValueError in test_errors.py:")
    assert reason(MalformedEvent("header missing: ce_id")) == "MalformedEvent: header missing: ce_id"
    assert reason(KeyError(CANARY)) == "KeyError"
