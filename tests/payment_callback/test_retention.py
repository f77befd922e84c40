"""What is forgotten, what is not yet, and what can be told again from memory."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
import pytest_asyncio
from prometheus_client import REGISTRY
from pydantic import SecretStr

from orderloop import postgres
from orderloop.settings import PostgresSettings
from payment_callback import errand_store, store
from payment_callback.retention import Retention, republish
from tests.support.databases import Database

NOW = datetime.now(UTC)
KEEP = Retention(log=timedelta(hours=72), memory=timedelta(days=30), errands=timedelta(days=90))


@pytest.fixture
def db(database: Callable[[str], Database]) -> Database:
    return database("payment_callback")


@pytest_asyncio.fixture
async def owner(db: Database) -> AsyncIterator[asyncpg.Connection]:
    conn = await asyncpg.connect(db.owner_url)
    yield conn
    await conn.close()


@pytest_asyncio.fixture
async def pool(db: Database) -> AsyncIterator[asyncpg.Pool]:
    async with postgres.pool(PostgresSettings(url=SecretStr(db.app_url)), application_name="test") as pool:
        yield pool


async def logged(owner: asyncpg.Connection, days_ago: int, order_no: str) -> None:
    day = (NOW - timedelta(days=days_ago)).date()
    await owner.execute(
        f"create table if not exists callback_log_{day:%Y%m%d} partition of callback_log "
        f"for values from ('{day} 00:00+00') to ('{day + timedelta(days=1)} 00:00+00')"
    )
    await owner.execute(
        "insert into callback_log (received_at, channel, verdict, status, headers, body, order_nos, transaction_ids, "
        "event_ids) values ($1, 'wechat', 'accepted', 204, '{}', 'body', array[$2], '{}', '{}')",
        NOW - timedelta(days=days_ago),
        order_no,
    )


async def remembered(owner: asyncpg.Connection, days_ago: float, event_id: str) -> None:
    await owner.execute(
        "insert into callback_memory (event_id, order_no, topic, occurred_at, body, received_at) "
        "values ($1, 'o', 'orderloop.payment-notified.v1', $2, $3, $2)",
        event_id,
        NOW - timedelta(days=days_ago),
        event_id.encode(),
    )


async def orders(owner: asyncpg.Connection) -> list[str]:
    return [row[0] for row in await owner.fetch("select order_nos[1] from callback_log order by received_at, id")]


async def test_days_beyond_72_hours_go_and_younger_ones_stay(owner: asyncpg.Connection, pool: asyncpg.Pool) -> None:
    for days_ago in (40, 5, 3, 2, 0):
        await logged(owner, days_ago, f"{days_ago} days old")

    await KEEP.enforce(pool)

    # three days ago is a day that ended less than 72 hours ago
    assert await orders(owner) == ["3 days old", "2 days old", "0 days old"]


async def test_a_held_order_s_rows_outlive_their_day_until_it_is_released(
    owner: asyncpg.Connection, pool: asyncpg.Pool
) -> None:
    for order_no in ("held", "other"):
        await logged(owner, 10, order_no)
    async with pool.acquire() as conn:
        await store.hold(conn, "held", "an anomaly cites it")

    await KEEP.enforce(pool)
    await KEEP.enforce(pool)

    assert await orders(owner) == ["held"]
    assert await owner.fetchval("select body from callback_log") == b"body"
    async with pool.acquire() as conn:
        found = await store.search(
            conn,
            order_no="held",
            transaction_id=None,
            verdict=None,
            since=NOW - timedelta(days=30),
            until=NOW,
            before=None,
            most=10,
        )
        assert len(found) == 1
        await store.release(conn, "held")

    await KEEP.enforce(pool)

    assert await orders(owner) == []


async def test_whoever_reads_the_log_is_not_disturbed_and_nobody_queues_behind(
    owner: asyncpg.Connection, db: Database, pool: asyncpg.Pool
) -> None:
    await logged(owner, 10, "old")
    reader = await asyncpg.connect(db.app_url)
    try:
        async with reader.transaction():
            assert await reader.fetchval("select count(*) from callback_log") == 1
            giving_up = asyncio.create_task(KEEP.enforce(pool))
            async with asyncio.timeout(1):
                await logged(owner, 0, "new")
                await giving_up
            assert await orders(owner) == ["old", "new"]
    finally:
        await reader.close()

    await KEEP.enforce(pool)

    assert await orders(owner) == ["new"]


async def test_what_was_seen_is_forgotten_after_its_days_and_never_within_thirty(
    owner: asyncpg.Connection, pool: asyncpg.Pool
) -> None:
    for days_ago in (100, 31, 29, 0):
        await remembered(owner, days_ago, f"{days_ago} days old")

    await KEEP.enforce(pool)

    rows = await owner.fetch("select event_id from callback_memory order by received_at")
    assert [row["event_id"] for row in rows] == ["29 days old", "0 days old"]
    async with pool.acquire() as conn:
        with pytest.raises(asyncpg.RaiseError, match="30 days"):
            await store.forget(conn, timedelta(days=29), 10)
        with pytest.raises(asyncpg.RaiseError, match="a day"):
            await store.drop_day(conn, timedelta(hours=1))


async def test_errands_are_forgotten_days_after_their_outcome_counted_and_open_ones_never(
    owner: asyncpg.Connection, pool: asyncpg.Pool
) -> None:
    insert = (
        "insert into errand (kind, key, order_no, request, requested_at, outcome, finished_at) "
        "values ('close', $1, 'o', '{}', now() - interval '1 year', $2, $3)"
    )
    for days_ago in (100, 91, 89):
        await owner.execute(insert, f"finished {days_ago} days ago", "closed", NOW - timedelta(days=days_ago))
    await owner.execute(insert, "open for a year", None, None)
    await owner.execute("insert into errand_timer (kind, key, due_at) values ('close', 'open for a year', now())")
    before = REGISTRY.get_sample_value("orderloop_callback_forgotten_total", {"what": "errands"}) or 0

    await KEEP.enforce(pool)

    left = [row["key"] for row in await owner.fetch("select key from errand order by key")]
    assert left == ["finished 89 days ago", "open for a year"]
    assert REGISTRY.get_sample_value("orderloop_callback_forgotten_total", {"what": "errands"}) == before + 2
    async with pool.acquire() as conn:
        with pytest.raises(asyncpg.RaiseError, match="30 days"):
            await errand_store.forget(conn, timedelta(days=29), 10)


async def test_what_is_remembered_since_a_moment_is_staged_again_in_its_order(
    owner: asyncpg.Connection, pool: asyncpg.Pool
) -> None:
    for number in range(4500):  # more than two pages
        await remembered(owner, 1 - number / 10_000, f"e{number:04d}")
    await remembered(owner, 3, "too old")

    count = await republish(pool, since=NOW - timedelta(days=2), until=NOW)

    staged = await owner.fetch("select event_id, body from outbox order by id")
    assert count == 4500
    assert [row["event_id"] for row in staged] == [f"e{number:04d}" for number in range(4500)]
    assert staged[7]["body"] == b"e0007"


async def test_the_command_says_how_much_it_staged_and_refuses_a_time_without_an_offset(
    owner: asyncpg.Connection, db: Database
) -> None:
    await remembered(owner, 0.1, "e")

    async def command(since: str) -> tuple[int | None, str]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "payment_callback", "republish", "--since", since),
            env={"ORDERLOOP_POSTGRES_URL": db.app_url, "COLUMNS": "200", "PATH": ""},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        said, _ = await process.communicate()
        return process.returncode, said.decode()

    status, said = await command((NOW - timedelta(hours=12)).isoformat())
    refused, why = await command("2026-11-22T00:00:00")

    assert (status, refused) == (0, 2)
    assert "1 events staged again" in said
    assert "offset" in why
    assert await owner.fetchval("select event_id from outbox") == "e"
