"""Dead letters: gathered from Kafka once, shown without their bytes, sent again where they were read, not for ever."""

import asyncio
from collections.abc import Awaitable, Callable

import asyncpg
import pytest
from aiokafka import AIOKafkaProducer, ConsumerRecord

from order_core import dead_letters
from order_core.dead_letters import Gatherer
from orderloop.envelope import Envelope
from orderloop.settings import KafkaSettings
from orderloop.topics import PAYMENT_NOTIFIED, WAYBILL_CREATED
from orderloop.topics import dead_letters as letters_of
from tests.support.orders import NOW, labelled, paid, reserved

NOBODY = f"{NOW:%y%m%d%H%M%S}ZZZZZZZZZZZZ"
LETTERS = letters_of(PAYMENT_NOTIFIED, "order-core")


def letter(
    body: bytes, *, offset: int = 0, sent: int | None = None, topic: str = PAYMENT_NOTIFIED
) -> ConsumerRecord[bytes | None, bytes | None]:
    """As a consumer parks it."""
    headers = Envelope("wechat:1:paid", "/payment-callback", topic, NOW, NOBODY).headers()
    told = [
        *headers,
        *([("dlq_sent", str(sent).encode())] if sent is not None else []),
        ("dlq_reason", b"MalformedEvent: x"),
        ("dlq_attempts", b"1"),
        ("dlq_origin", f"{PAYMENT_NOTIFIED}-3-{offset}".encode()),
        ("dlq_first_failure", NOW.isoformat().encode()),
    ]
    at = int(NOW.timestamp() * 1000)
    return ConsumerRecord(LETTERS, 0, offset, at, 0, NOBODY.encode(), body, None, 0, 0, tuple(told))


async def kept(conn: asyncpg.Connection, *records: ConsumerRecord[bytes | None, bytes | None]) -> list[int]:
    await dead_letters.keep(conn, records, prefix="")
    rows = await dead_letters.page(conn, topic=None, group=None, is_open=None, before=None, most=50)
    return [row["id"] for row in rows]


async def again(conn: asyncpg.Connection, *ids: int, dry_run: bool = False) -> list[tuple[bool, bool]]:
    async with conn.transaction():
        verdicts = await dead_letters.send_again(
            conn, ids, by="ops:li", why="the producer is mended", now=NOW, dry_run=dry_run
        )
    return [(verdict.sent, verdict.why_not is None) for verdict in verdicts]


async def test_a_letter_stands_at_the_desk_once_and_without_its_bytes(conn: asyncpg.Connection) -> None:
    record = letter('{"name": "张三"}'.encode())
    await kept(conn, record, record)
    await kept(conn, record)

    [row] = await dead_letters.page(conn, topic=PAYMENT_NOTIFIED, group=None, is_open=True, before=None, most=50)

    assert (row["consumer_group"], row["record_key"], row["reason"]) == ("order-core", NOBODY, "MalformedEvent: x")
    assert "张三" not in str(row)


async def test_a_letter_is_sent_again_with_its_own_bytes_once(conn: asyncpg.Connection) -> None:
    body = paid(NOBODY).body.encode()  # type: ignore[union-attr]
    [number] = await kept(conn, letter(body))

    assert await again(conn, number, dry_run=True) == [(False, True)]
    assert await conn.fetchval("select count(*) from outbox") == 0
    assert await again(conn, number) == [(True, True)]
    assert await again(conn, number) == [(False, False)]

    [row] = await conn.fetch("select topic, body, record::text as record from outbox")
    assert (row["topic"], row["body"]) == (PAYMENT_NOTIFIED, body)
    assert "dlq_sent" in row["record"]
    assert "dlq_origin" not in row["record"]


@pytest.mark.parametrize(
    ("body", "topic"),
    [
        (b"{", PAYMENT_NOTIFIED),
        (paid(NOBODY.replace("Z", "Y")).body.encode(), PAYMENT_NOTIFIED),  # type: ignore[union-attr]
        (paid(NOBODY).body.encode(), WAYBILL_CREATED),  # type: ignore[union-attr]
    ],
    ids=["no JSON", "another order", "another type"],
)
async def test_a_letter_that_every_consumer_would_refuse_again_stays(
    conn: asyncpg.Connection, body: bytes, topic: str
) -> None:
    [number] = await kept(conn, letter(body, topic=topic))

    assert await again(conn, number, dry_run=True) == [(False, False)]
    assert await again(conn, number) == [(False, False)]
    assert await conn.fetchval("select count(*) from outbox") == 0


async def test_a_letter_that_is_of_no_use_is_put_away_by_name_and_with_a_reason(conn: asyncpg.Connection) -> None:
    useless, useful = sorted(await kept(conn, letter(b"{"), letter(paid(NOBODY).body.encode(), offset=1)))  # type: ignore[union-attr]
    assert await again(conn, useful) == [(True, True)]

    async with conn.transaction():
        dismissed = await dead_letters.dismiss(conn, [useless, useful], by="ops:li", why="a test's", now=NOW)

    assert dismissed == [useless]
    rows = await dead_letters.page(conn, topic=None, group=None, is_open=False, before=None, most=50)
    assert [(row["resolved_by"], row["resolution"]) for row in rows] == [
        ("ops:li", "sent again: the producer is mended"),
        ("ops:li", "dismissed: a test's"),
    ]
    assert await again(conn, useless) == [(False, False)]


async def test_a_letter_that_comes_back_again_and_again_is_not_sent_for_ever(conn: asyncpg.Connection) -> None:
    body = paid(NOBODY).body.encode()  # type: ignore[union-attr]
    second, third = sorted(await kept(conn, letter(body, offset=1, sent=2), letter(body, offset=2, sent=3)))

    assert await again(conn, second, third) == [(True, True), (False, False)]


async def test_letters_are_gathered_from_kafka(
    pool: asyncpg.Pool,
    kafka_bootstrap: str,
    topic_prefix: str,
    create_topics: Callable[..., Awaitable[None]],
) -> None:
    await create_topics(topic_prefix)
    async with pool.acquire() as conn:
        order_no = await reserved(conn)
    body = labelled(order_no).body.encode()  # type: ignore[union-attr]
    topic = topic_prefix + letters_of(WAYBILL_CREATED, "logistics-poller")
    async with AIOKafkaProducer(bootstrap_servers=kafka_bootstrap) as producer:
        await producer.send_and_wait(topic, body, key=order_no.encode(), headers=[("dlq_reason", b"x")])
    settings = KafkaSettings(bootstrap=kafka_bootstrap, topic_prefix=topic_prefix)  # type: ignore[call-arg]
    stop = asyncio.Event()
    gathering = asyncio.create_task(Gatherer(settings, pool).run(stop))
    deadline = asyncio.get_running_loop().time() + 40
    while not (rows := await pool.fetch("select topic, consumer_group from dead_letter")):
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.1)
    stop.set()
    await gathering

    assert [tuple(row) for row in rows] == [(WAYBILL_CREATED, "logistics-poller")]
