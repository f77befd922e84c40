"""payment-callback as it really runs: a process that is killed at the worst moments, without Kafka, with its relay."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import asyncpg
import pytest
import pytest_asyncio
from aiokafka import AIOKafkaConsumer

from orderloop.events import PaymentNotified
from orderloop_lab.simulators.wechat_keys import Keys
from tests.support.databases import Database
from tests.support.payment_callback import Process
from tests.support.wechat import ORDER_NO, TRANSACTION_ID, send, transaction

PAID = f"wechat:{TRANSACTION_ID}:paid"


@pytest.fixture
def db(database: Callable[[str], Database]) -> Database:
    return database("payment_callback")


@pytest_asyncio.fixture
async def conn(db: Database) -> AsyncIterator[asyncpg.Connection]:
    conn = await asyncpg.connect(db.owner_url)
    yield conn
    await conn.close()


async def rows(conn: asyncpg.Connection) -> tuple[int, int, int]:
    """In the log, in the memory, in the outbox."""
    row = await conn.fetchrow(
        "select (select count(*) from callback_log), (select count(*) from callback_memory), "
        "(select count(*) from outbox)"
    )
    assert row is not None
    return tuple(row)


@pytest.mark.parametrize(
    ("moment", "answered", "stored"),
    [
        ("before_verify", None, (0, 0, 0)),
        ("after_verify", None, (0, 0, 0)),
        ("after_commit", None, (1, 1, 1)),
        ("after_answer", 204, (1, 1, 1)),
    ],
)
async def test_killed_at_any_moment_nothing_answered_is_lost_and_nothing_is_told_twice(  # noqa: PLR0917
    db: Database,
    conn: asyncpg.Connection,
    keys: Keys,
    moment: str,
    answered: int | None,
    stored: tuple[int, int, int],
) -> None:
    async with Process(db, keys, FAILPOINT=f"payment_callback.{moment}:kill") as service:
        first = await service.post(send(keys, transaction()))

        assert await service.killed_by_itself()
        assert first == answered
        assert await rows(conn) == stored

        await service.start(FAILPOINT="")
        repeat = await service.post(send(keys, transaction()))

    assert repeat == 204
    assert (await rows(conn))[1:] == (1, 1)
    assert await conn.fetchval("select count(*) from callback_log where verdict = 'accepted'") == 1


async def test_an_unexpected_error_after_the_commit_is_no_success_and_the_repeat_is(
    db: Database, conn: asyncpg.Connection, keys: Keys
) -> None:
    async with Process(db, keys, FAILPOINT="payment_callback.after_commit:raise") as service:
        answers = [await service.post(send(keys, transaction())) for _ in range(2)]

    assert answers == [500, 204]
    assert (await rows(conn))[1:] == (1, 1)


async def test_kill_nine_in_the_middle_of_a_burst_loses_nothing_that_was_acknowledged(
    db: Database, conn: asyncpg.Connection, keys: Keys
) -> None:
    notices = [send(keys, transaction(transaction_id=f"T{number}")) for number in range(200)]
    async with Process(db, keys, FAILPOINT="payment_callback.after_commit:kill@90") as service:
        first = await asyncio.gather(*(service.post(notice) for notice in notices))
        acknowledged = {number for number, status in enumerate(first) if status == 204}
        known = {row["event_id"] for row in await conn.fetch("select event_id from outbox")}

        assert await service.killed_by_itself()
        assert {f"wechat:T{number}:paid" for number in acknowledged} <= known

        await service.start(FAILPOINT="")
        again = await asyncio.gather(*(service.post(notice) for notice in notices))

    assert set(again) == {204}
    staged = [row["event_id"] for row in await conn.fetch("select event_id from outbox")]
    assert sorted(staged) == sorted(f"wechat:T{number}:paid" for number in range(200))


async def test_without_kafka_it_starts_is_ready_and_answers_and_leaves_on_sigterm(
    db: Database, conn: asyncpg.Connection, keys: Keys
) -> None:
    async with Process(db, keys) as service:
        answer = await service.post(send(keys, transaction()))
        status = await service.stop()

    assert (answer, status) == (204, 0)
    assert await rows(conn) == (1, 1, 1)


async def test_with_kafka_the_payment_reaches_its_topic_under_its_order_and_leaves_the_outbox(  # noqa: PLR0917
    db: Database,
    conn: asyncpg.Connection,
    keys: Keys,
    kafka_bootstrap: str,
    topic_prefix: str,
    create_topics: Callable[..., Awaitable[None]],
) -> None:
    topic = topic_prefix + PaymentNotified.TOPIC
    await create_topics(topic_prefix, (PaymentNotified.TOPIC,))
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=kafka_bootstrap, auto_offset_reset="earliest", group_id=None)
    await consumer.start()
    try:
        async with Process(
            db, keys, ORDERLOOP_KAFKA_BOOTSTRAP=kafka_bootstrap, ORDERLOOP_KAFKA_TOPIC_PREFIX=topic_prefix
        ) as service:
            assert await service.post(send(keys, transaction())) == 204
            record = await asyncio.wait_for(consumer.getone(), 20)
            async with asyncio.timeout(10):
                while await conn.fetchval("select count(*) from outbox"):  # noqa: ASYNC110  # a table has no event
                    await asyncio.sleep(0.02)  # the relay deletes once Kafka has acknowledged
    finally:
        await consumer.stop()

    assert record.key == ORDER_NO.encode()
    assert dict(record.headers)["ce_id"] == PAID.encode()
    assert dict(record.headers)["ce_source"] == b"/payment-callback"
    assert PaymentNotified.decode(record.value).amount_fen == 9900


async def test_wrong_settings_end_the_start_with_one_sentence(db: Database, keys: Keys) -> None:
    service = Process(db, keys, ORDERLOOP_WECHAT_APIV3_KEY="short")

    with pytest.raises(RuntimeError, match="ended with 2"):
        await service.start()

    await service.http.aclose()
