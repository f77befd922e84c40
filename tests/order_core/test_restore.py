"""docs/runbooks/restore-and-rewind.md, step by step: a restored order-core ends where the lost one stood."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import asyncpg
import httpx
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from pydantic import SecretStr
from redis.asyncio import Redis

from order_core import consumers, http
from order_core.dead_letters import Gatherer
from order_core.orders import Incoming
from order_core.republish import republish
from order_core.settings import OrderSettings
from orderloop import postgres, topics
from orderloop.clock import SystemClock
from orderloop.consume import Consumer
from orderloop.events import OrderChanged
from orderloop.health import Health
from orderloop.outbox import Relay
from orderloop.settings import KafkaSettings, OutboxSettings, PostgresSettings
from orderloop_lab.databases import create_database, drop_databases
from tests.support.databases import Database
from tests.support.kafka import Outgoing, outgoing, produce, read_all, settings_for, until
from tests.support.orders import close_told, labelled, paid, refund_told, reserved, settled, tracked

GROUPS = {"order-core": consumers.TOPICS, "order-core-desk": topics.DEAD_LETTERS}
LETTERS = topics.dead_letters(topics.SETTLEMENT_REQUESTED, "settlement")


@dataclass(frozen=True, slots=True)
class OrderCore:
    """The service at work: what it does without being asked, and its door for the shop and the desk."""

    pool: asyncpg.Pool
    http: httpx.AsyncClient

    async def command(self, path: str, **body: object) -> None:
        """Under the same key whenever it is given again."""
        answer = await self.http.post(path, json=body or None, headers={"Idempotency-Key": path, "X-Caller": "shop"})
        assert answer.status_code == 202, answer.text


@asynccontextmanager
async def started(database: Database, broker: KafkaSettings, nowhere: int) -> AsyncIterator[OrderCore]:
    settings, clock = PostgresSettings(url=SecretStr(database.app_url)), SystemClock()
    async with (
        postgres.pool(settings, application_name="test") as pool,
        Redis.from_url(f"redis://127.0.0.1:{nowhere}") as nobody,
    ):
        consumer = Consumer(
            broker,
            group="order-core",
            topics=consumers.TOPICS,
            handle=consumers.handler(pool, clock),
            pool=pool,
            health=Health(),
        )
        relay = Relay(
            source="/order-core", postgres_settings=settings, kafka_settings=broker, settings=OutboxSettings()
        )
        app = http.create(pool=pool, redis=nobody, clock=clock, health=Health(), settings=OrderSettings())
        stop = asyncio.Event()
        tasks = [asyncio.create_task(task.run(stop)) for task in (consumer, Gatherer(broker, pool), relay)]
        try:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://order-core") as client:
                yield OrderCore(pool, client)
        finally:
            stop.set()
            async with asyncio.timeout(20):
                await asyncio.gather(*tasks)


@asynccontextmanager
async def offsets(broker: KafkaSettings, group: str) -> AsyncIterator[AIOKafkaConsumer]:
    """A group's offsets as an administrator sees and sets them, who is no member of it."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=broker.bootstrap, group_id=broker.topic_prefix + group, enable_auto_commit=False
    )
    await consumer.start()
    try:
        consumer.assign([TopicPartition(broker.topic_prefix + t, n) for t in GROUPS[group] for n in range(12)])
        yield consumer
    finally:
        await consumer.stop()


async def no_lag(broker: KafkaSettings) -> None:
    for group in GROUPS:
        async with offsets(broker, group) as consumer:
            for partition, end in (await consumer.end_offsets(consumer.assignment())).items():

                async def reached(partition: TopicPartition = partition, end: int = end) -> bool:
                    return end == 0 or await consumer.committed(partition) == end

                await until(reached)


async def rewind(broker: KafkaSettings, group: str, to: datetime) -> int:
    """What `kafka-consumer-groups.sh --all-topics --reset-offsets --to-datetime` does; returns by how many records."""
    async with offsets(broker, group) as consumer:
        ends = {one: end for one, end in (await consumer.end_offsets(consumer.assignment())).items() if end}
        committed = {one: offset for one in ends if (offset := await consumer.committed(one)) is not None}
        found = await consumer.offsets_for_times(dict.fromkeys(committed, int(to.timestamp() * 1000)))
        back = {one: first.offset if (first := found[one]) else ends[one] for one in committed}
        await consumer.commit(back)
        return sum(committed.values()) - sum(back.values())


async def drained(pool: asyncpg.Pool) -> None:
    async def empty() -> bool:
        return not await pool.fetchval("select count(*) from outbox")

    await until(empty)


async def books(pool: asyncpg.Pool) -> dict[str, list[tuple[object, ...]]]:
    """Everything but when it was written down, and by whom."""
    queries = {
        "orders": "select order_no, status, version, channel from orders order by external_order_id",
        "log": 'select order_no, version, "from", "to", event_id, event, detail::text from order_log order by 1, 2',
        "payments": "select order_no, transaction_id, amount_fen, applied from payment order by 1",
        "refunds": "select out_refund_no, amount_fen, state from refund order by 1",
        "instructions": "select instruction_id, amount_fen, asked, state from instruction order by 1",
        "at the desk": "select order_no, event_id, kind from anomaly where resolved_at is null order by 1",
        "dead letters": "select origin, topic, consumer_group from dead_letter order by 1",
    }
    return {what: [tuple(row) for row in await pool.fetch(query)] for what, query in queries.items()}


async def published(broker: KafkaSettings) -> dict[str, set[object]]:
    """What the world was told and asked; copies that are alike count once."""
    changes = [OrderChanged.decode(record.value or b"") for record in await read_all(broker, topics.ORDER_CHANGED)]
    asked = (topics.SETTLEMENT_REQUESTED, topics.CLOSE_REQUESTED, topics.REFUND_REQUESTED)
    return {
        topics.ORDER_CHANGED: {(c.order_no, c.version, c.from_, c.to, c.cause.event_id) for c in changes},
        **{topic: {record.value for record in await read_all(broker, topic)} for topic in asked},
    }


def sent(*events: Incoming, at: datetime | None = None) -> list[Outgoing]:
    return [replace(outgoing(e.body, e.event_id, source=e.actor), at=at) for e in events]  # type: ignore[arg-type]


@pytest.fixture
async def backup(postgres_admin_url: str, order_core: Database) -> AsyncIterator[str]:
    """The backup's name, as soon as there is one."""
    name = f"{order_core.name}_backup"
    yield name
    await drop_databases(postgres_admin_url, [name])


@pytest.fixture
async def broker(
    kafka_bootstrap: str, topic_prefix: str, create_topics: Callable[..., Awaitable[None]]
) -> KafkaSettings:
    await create_topics(topic_prefix)
    return settings_for(kafka_bootstrap, topic_prefix)


async def test_a_restored_order_core_ends_where_the_lost_one_stood(
    order_core: Database,
    backup: str,
    broker: KafkaSettings,
    postgres_admin_url: str,
    unused_tcp_port: int,
) -> None:
    def service() -> AbstractAsyncContextManager[OrderCore]:
        return started(order_core, broker, unused_tcp_port)

    async def give_commands(to: OrderCore) -> None:
        await to.command(f"/v1/orders/{settles}/confirm-receipt")
        await to.command(f"/v1/orders/{closes}/close")
        await to.command(f"/v1/orders/{refunds}/refund", reason="a scratch", amount_fen=900)

    async with service() as lost:
        async with lost.pool.acquire() as conn:
            settles, closes, refunds, arrives, lags = [await reserved(conn, str(n)) for n in range(5)]
        await produce(broker, sent(paid(settles, "1"), labelled(settles, "1"), tracked(settles, waybill_no="1")))
        await produce(broker, sent(paid(refunds, "2"), paid(arrives, "3")))
        await no_lag(broker)
    await create_database(postgres_admin_url, "order_core", backup, template=order_core.name)
    # So far behind was the group when the backup was made.
    await produce(broker, sent(paid(lags, "4"), at=datetime.now(UTC) - timedelta(hours=2)))
    await produce(broker, [Outgoing(LETTERS, settles.encode(), b"{")])
    async with service() as lost:
        await give_commands(lost)
        await produce(broker, sent(settled(settles), close_told(closes), labelled(arrives, "3")))
        await produce(broker, sent(refund_told(refunds, amount_fen=900, transaction_id="2")))
        await no_lag(broker)
        await drained(lost.pool)
        stood, told = await books(lost.pool), await published(broker)
    assert [row[1] for row in stood["orders"]] == ["completed", "closed", "paid", "shipped", "paid"]

    # 1. it has stopped; 2. restore
    await drop_databases(postgres_admin_url, [order_core.name])
    await create_database(postgres_admin_url, "order_core", order_core.name, template=backup)
    conn = await asyncpg.connect(order_core.app_url)
    moment = await conn.fetchval("select max(recorded_at) - interval '1 day' from order_log")
    await conn.close()
    # 3. rewind both groups
    assert [await rewind(broker, group, moment) for group in GROUPS] == [10, 1]
    async with service() as restored:
        # 4. start one replica, until nothing lags
        await no_lag(broker)
        # 5. the commands once more
        await give_commands(restored)
        # 6. replay what did not fit before
        items = (await restored.http.get("/v1/anomalies", params={"open": True})).json()["items"]
        assert {item["kind"]: item["order_no"] for item in items} == {
            "settlement_not_requested": settles,
            "close_not_requested": closes,
            "refund_not_requested": refunds,
        }
        for item in items:
            await restored.command(f"/v1/anomalies/{item['id']}/act", repair="replay", reason="restored")
        # 7. publish again
        assert await republish(restored.pool, since=moment) == sum(map(len, told.values()))
        await drained(restored.pool)
        # 8. the rest starts

        assert await books(restored.pool) == stood
        assert await published(broker) == told
        assert told[topics.ORDER_CHANGED] == {row[:5] for row in stood["log"]}
