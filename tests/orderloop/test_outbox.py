"""The outbox and its relay on a real broker: what was committed is published, in each order's order, whatever dies."""

import asyncio
import os
import random
import signal
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress

import asyncpg
import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from orderloop import metrics, outbox, postgres, topics
from orderloop.consume import LANES, Consumer, Received
from orderloop.events import PickupDetected
from orderloop.health import Health
from orderloop.ids import new_order_no
from orderloop.outbox import Relay, Staged, stage
from orderloop.settings import KafkaSettings, OutboxSettings, PostgresSettings
from orderloop_lab.topics import create_topics
from tests.orderloop.conftest import GROUP, OwnBroker
from tests.support.kafka import AT, read_all, tracked, until
from tests.support.programs import Program

TOPIC = topics.PARCEL_TRACKED
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"

Made = Callable[..., Awaitable[KafkaSettings]]


def staged(order_no: str, version: int, *, size: int = 0, trace: str | None = None) -> Staged:
    text = f"{version}|{'x' * size}"
    return Staged(tracked(order_no, text=text), f"{order_no}:{version}", AT, trace)


def picked_up(order_no: str) -> PickupDetected:
    return PickupDetected(
        order_no=order_no, express_code="zto", waybill_no="75312345678901", picked_up_at=AT, source="poll"
    )


async def put(pool: asyncpg.Pool, messages: Sequence[Staged]) -> None:
    async with pool.acquire() as conn, conn.transaction():
        await stage(conn, messages)


def relay_of(postgres_settings: PostgresSettings, broker: KafkaSettings, *, batch: int = 2000) -> Relay:
    return Relay(
        source="/settlement",
        postgres_settings=postgres_settings,
        kafka_settings=broker,
        settings=OutboxSettings.model_validate({"batch": batch}),
    )


@asynccontextmanager
async def relaying(
    postgres_settings: PostgresSettings, broker: KafkaSettings, *, batch: int = 2000, stop_seconds: float = 15
) -> AsyncIterator[None]:
    stop = asyncio.Event()
    task = asyncio.create_task(relay_of(postgres_settings, broker, batch=batch).run(stop))
    try:
        yield
    finally:
        stop.set()
        async with asyncio.timeout(stop_seconds):
            await task


async def drained(pool: asyncpg.Pool, left: int = 0) -> None:
    async def empty() -> bool:
        return await pool.fetchval("select count(*) from outbox") == left

    await until(empty, seconds=60)


async def versions(broker: KafkaSettings, topic: str = TOPIC) -> dict[str, list[int]]:
    """Per order, the versions in the order of their first publication."""
    found: dict[str, list[int]] = defaultdict(list)
    for record in await read_all(broker, topic):
        order_no, _, version = dict(record.headers)["ce_id"].decode().partition(":")
        if int(version) not in found[order_no]:
            found[order_no].append(int(version))
    return dict(found)


class RelayProcess:
    """`python -m settlement relay`: what runs in production, to be killed."""

    def __init__(self, postgres_settings: PostgresSettings, broker: KafkaSettings) -> None:
        self._environ = os.environ | {
            "ORDERLOOP_POSTGRES_URL": postgres_settings.url.get_secret_value(),
            "ORDERLOOP_KAFKA_BOOTSTRAP": broker.bootstrap,
            "ORDERLOOP_KAFKA_TOPIC_PREFIX": broker.topic_prefix,
            "ORDERLOOP_OUTBOX_BATCH": "10",
        }
        self._running: list[Program] = []

    def start(self, *, failpoint: str = "") -> Program:
        process = Program("settlement", "relay", env=self._environ | {"FAILPOINT": failpoint})
        self._running.append(process)
        return process

    def kill_all(self) -> None:
        for process in self._running:
            process.kill()
            process.wait()


@pytest.fixture
def processes(postgres_settings: PostgresSettings, broker: KafkaSettings) -> Iterator[RelayProcess]:
    processes = RelayProcess(postgres_settings, broker)
    yield processes
    processes.kill_all()


async def test_a_record_is_the_event_in_binary_mode_under_its_orders_key(
    topics_made: Made, pool: asyncpg.Pool, postgres_settings: PostgresSettings, order_no: str
) -> None:
    broker = await topics_made(TOPIC)
    await put(pool, [staged(order_no, 1, trace=TRACE)])
    before = metrics.PUBLISHED.labels(TOPIC)._value.get()

    async with relaying(postgres_settings, broker):
        await drained(pool)

    (record,) = await read_all(broker, TOPIC)
    assert record.key == order_no.encode()
    assert record.value == tracked(order_no, text="1|").encode()
    assert list(record.headers) == [
        ("ce_specversion", b"1.0"),
        ("ce_id", f"{order_no}:1".encode()),
        ("ce_source", b"/settlement"),
        ("ce_type", TOPIC.encode()),
        ("ce_time", b"2026-03-01T12:00:00+00:00"),
        ("ce_subject", order_no.encode()),
        ("content-type", b"application/json"),
        ("traceparent", TRACE.encode()),
    ]
    assert metrics.PUBLISHED.labels(TOPIC)._value.get() - before == 1
    assert metrics.RELAY_LEADS._value.get() == 0


async def write(pool: asyncpg.Pool, orders: Sequence[str], seed: int) -> None:
    """Change random orders in 20 transactions of 25; every fifth is rolled back."""
    chance = random.Random(seed)
    for n in range(20):
        chosen = sorted(chance.sample(orders, 25))
        with suppress(ZeroDivisionError):
            async with pool.acquire() as conn, conn.transaction():
                rows = await conn.fetch(
                    "with locked as (select order_no from story where order_no = any($1) order by 1 for update) "
                    "update story set version = version + 1 from locked using_ where using_.order_no = story.order_no "
                    "returning story.order_no, version",
                    chosen,
                )
                await stage(conn, [staged(row["order_no"], row["version"]) for row in rows])
                if n % 5 == 4:
                    raise ZeroDivisionError


async def test_everything_committed_by_five_writers_is_published_in_each_orders_order(
    topics_made: Made, pool: asyncpg.Pool, postgres_settings: PostgresSettings
) -> None:
    broker = await topics_made(TOPIC)
    orders = [new_order_no(AT) for _ in range(60)]
    await pool.executemany("insert into story values ($1, 0)", [(order,) for order in orders])

    async with relaying(postgres_settings, broker, batch=300):
        await asyncio.gather(*(write(pool, orders, seed) for seed in range(5)))
        await drained(pool)

    expected = {row["order_no"]: row["version"] for row in await pool.fetch("select * from story where version > 0")}
    assert sum(expected.values()) == 5 * 16 * 25
    assert await versions(broker) == {order: list(range(1, last + 1)) for order, last in expected.items()}


@pytest.mark.parametrize("failpoint", ["relay.after_read", "relay.after_produce", "relay.after_ack"])
async def test_killed_anywhere_it_publishes_again_what_it_had_not_deleted(
    topics_made: Made,
    pool: asyncpg.Pool,
    processes: RelayProcess,
    postgres_settings: PostgresSettings,
    failpoint: str,
) -> None:
    broker = await topics_made(TOPIC)
    orders = [new_order_no(AT) for _ in range(7)]
    await put(pool, [staged(order, version) for version in (1, 2, 3) for order in orders])

    killed = processes.start(failpoint=f"{failpoint}:kill@2")
    assert await asyncio.to_thread(killed.wait, 30) == -signal.SIGKILL
    assert await pool.fetchval("select count(*) from outbox") > 0
    async with relaying(postgres_settings, broker):
        await drained(pool)

    assert await versions(broker) == {key: [1, 2, 3] for key in orders}


async def test_of_two_relays_one_leads_and_the_other_takes_over_when_it_is_killed(
    topics_made: Made,
    pool: asyncpg.Pool,
    processes: RelayProcess,
    postgres_settings: PostgresSettings,
    admin: asyncpg.Connection,
) -> None:
    broker = await topics_made(TOPIC)
    orders = [new_order_no(AT) for _ in range(20)]
    leader = processes.start()
    await until(lambda: _leads(admin))
    async with relaying(postgres_settings, broker, batch=10):
        await put(pool, [staged(order, 1) for order in orders])
        await drained(pool)
        assert metrics.RELAY_LEADS._value.get() == 0

        await put(pool, [staged(order, 2) for order in orders])
        leader.kill()
        await put(pool, [staged(order, 3) for order in orders])
        await drained(pool)
        await until(lambda: metrics.RELAY_LEADS._value.get() == 1)

    assert await versions(broker) == {key: [1, 2, 3] for key in orders}


async def _leads(admin: asyncpg.Connection) -> bool:
    return bool(
        await admin.fetchval(
            "select count(*) from pg_locks join pg_database d on d.oid = database "
            "where locktype = 'advisory' and objid = 7233002 and granted and datname = current_database()"
        )
    )


async def test_a_leader_that_loses_its_session_leads_again(
    topics_made: Made, pool: asyncpg.Pool, postgres_settings: PostgresSettings, admin: asyncpg.Connection
) -> None:
    broker = await topics_made(TOPIC)
    orders = [new_order_no(AT) for _ in range(20)]
    async with relaying(postgres_settings, broker):
        cut: set[int] = set()
        for version in (1, 2, 3):
            await put(pool, [staged(order, version) for order in orders])
            await until(lambda: _cut(admin, cut))
        await drained(pool)

    assert await versions(broker) == {key: [1, 2, 3] for key in orders}


async def _cut(admin: asyncpg.Connection, before: set[int]) -> bool:
    """Whether a session of the relay that was not cut `before` is cut now."""
    rows = await admin.fetch(
        "select pid, pg_terminate_backend(pid) from pg_stat_activity "
        "where application_name = 'settlement relay' and datname = current_database() and pid <> all($1)",
        list(before),
    )
    before.update(row["pid"] for row in rows)
    return bool(rows)


async def test_a_session_that_is_not_used_loses_the_lead(postgres_settings: PostgresSettings) -> None:
    """A frozen leader would keep the others waiting for as long as its machine answers TCP."""
    conn = await postgres.connect(postgres_settings.url.get_secret_value(), application_name="relay")
    limit = await conn.fetchval("show idle_session_timeout")
    await conn.close()

    assert limit == "20s"


async def test_a_row_too_large_to_be_sent_parks_its_order_and_nobody_elses(
    topics_made: Made, pool: asyncpg.Pool, postgres_settings: PostgresSettings, order_no: str
) -> None:
    broker = await topics_made(TOPIC)
    others = [new_order_no(AT) for _ in range(10)]
    large = staged(order_no, 2, size=1_100_000)
    await put(pool, [staged(order_no, 1), large, *(staged(one, 1) for one in others), staged(order_no, 3)])

    async with relaying(postgres_settings, broker):
        await drained(pool, left=2)
        await put(pool, [staged(order_no, 4), *(staged(one, 2) for one in others)])
        await drained(pool, left=3)

    assert await versions(broker) == {order_no: [1], **{key: [1, 2] for key in others}}
    (parked,) = await pool.fetch("select order_no, outbox_id, reason from outbox_parked")
    assert (parked["order_no"], parked["reason"]) == (order_no, "MessageSizeTooLargeError")
    assert metrics.OUTBOX_PARKED._value.get() == 1


@pytest.fixture
async def narrow(broker: KafkaSettings) -> KafkaSettings:
    """A topic that takes less than the client sends: 5,000 bytes, a batch of records included."""
    admin = AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap)
    await admin.start()
    limits = {"max.message.bytes": "5000"}
    await admin.create_topics([NewTopic(broker.topic_prefix + TOPIC, 12, 1, topic_configs=limits)])
    await admin.close()
    return broker


async def test_a_row_that_the_broker_refuses_is_overtaken_by_nothing_of_its_order(
    narrow: KafkaSettings, pool: asyncpg.Pool, postgres_settings: PostgresSettings, order_no: str
) -> None:
    """It fills a batch of its own; what is queued behind it a broker takes from a producer that it has not met yet."""
    others = [new_order_no(AT) for _ in range(10)]
    large = staged(order_no, 1, size=20_000)
    await put(pool, [large, *(staged(order_no, n) for n in (2, 3)), *(staged(one, 1) for one in others)])

    async with relaying(postgres_settings, narrow):
        await until(lambda: _parked(pool, order_no))
        await drained(pool, left=3)

    assert await versions(narrow) == {one: [1] for one in others}


async def _parked(pool: asyncpg.Pool, order_no: str) -> bool:
    return [row["order_no"] for row in await pool.fetch("select order_no from outbox_parked")] == [order_no]


async def test_rows_that_the_broker_refuses_together_are_taken_one_by_one(
    narrow: KafkaSettings, pool: asyncpg.Pool, postgres_settings: PostgresSettings
) -> None:
    orders = [new_order_no(AT) for _ in range(200)]  # some 16 to a partition, in one batch of 8,000 bytes
    await put(pool, [staged(one, version) for version in (1, 2) for one in orders])

    async with relaying(postgres_settings, narrow):
        await drained(pool)

    assert await versions(narrow) == {one: [1, 2] for one in orders}
    assert await pool.fetchval("select count(*) from outbox_parked") == 0


async def test_a_parked_order_that_is_released_goes_on_where_it_stood(
    topics_made: Made, pool: asyncpg.Pool, postgres_settings: PostgresSettings, admin: asyncpg.Connection, order_no: str
) -> None:
    broker = await topics_made(TOPIC)
    await put(pool, [staged(order_no, 1), staged(order_no, 2)])
    await pool.execute("insert into outbox_parked select order_no, min(id), 'test' from outbox group by order_no")
    async with relaying(postgres_settings, broker, batch=5):
        for _ in range(3):  # far enough for the reading to begin behind them, if it could
            await put(pool, [staged(new_order_no(AT), 1) for _ in range(10)])
            await drained(pool, left=2)
        await admin.execute("delete from outbox_parked")
        await put(pool, [staged(order_no, 3)])
        await drained(pool)

    assert (await versions(broker))[order_no] == [1, 2, 3]


async def test_a_topic_that_is_missing_keeps_its_own_events_waiting_and_no_others(
    topics_made: Made, pool: asyncpg.Pool, postgres_settings: PostgresSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "_HOLD_SECONDS", 0.5)
    broker = await topics_made(topics.PICKUP_DETECTED)
    orders = [new_order_no(AT) for _ in range(10)]
    there = [Staged(picked_up(one), f"{one}:1", AT) for one in orders]
    await put(pool, [staged(one, version) for version in (1, 2) for one in orders])
    await put(pool, there)

    async with relaying(postgres_settings, broker, batch=15):
        await drained(pool, left=20)
        assert await versions(broker, topics.PICKUP_DETECTED) == {one: [1] for one in orders}
        assert await pool.fetchval("select count(*) from outbox_parked") == 0
        await topics_made(TOPIC)
        await drained(pool)

    assert await versions(broker) == {one: [1, 2] for one in orders}


async def test_a_notification_wakes_it_long_before_it_looks_by_itself(
    topics_made: Made, pool: asyncpg.Pool, postgres_settings: PostgresSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "_IDLE_SECONDS", 19)
    broker = await topics_made(TOPIC)
    async with relaying(postgres_settings, broker):
        await put(pool, [staged(new_order_no(AT), 1)])
        await drained(pool)
        async with asyncio.timeout(10):
            for _ in range(5):
                await put(pool, [staged(new_order_no(AT), 1)])
                await drained(pool)


async def test_without_a_broker_it_tries_again_and_stops_when_told_to(
    pool: asyncpg.Pool, postgres_settings: PostgresSettings, order_no: str
) -> None:
    attempts = 0

    def hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal attempts
        attempts += 1
        writer.close()

    await put(pool, [staged(order_no, 1)])
    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        nowhere = KafkaSettings.model_validate({"bootstrap": f"127.0.0.1:{port}", "topic_prefix": "t."})
        async with relaying(postgres_settings, nowhere, stop_seconds=5):
            await until(lambda: attempts >= 2)

    assert await pool.fetchval("select count(*) from outbox") == 1


async def test_a_broker_killed_under_relay_and_consumer_and_back_again_costs_nothing(
    own_broker: OwnBroker, pool: asyncpg.Pool, postgres_settings: PostgresSettings
) -> None:
    broker = own_broker.settings
    await create_topics(broker.bootstrap, broker.topic_prefix, (TOPIC,))
    orders = [new_order_no(AT) for _ in range(50)]
    seen: set[str] = set()
    health = Health()

    async def handle(received: Sequence[Received]) -> None:
        seen.update(one.event_id for one in received)

    stop = asyncio.Event()
    consumer = Consumer(broker, group=GROUP, topics=[TOPIC], handle=handle, pool=pool, health=health)
    consuming = asyncio.create_task(consumer.run(stop))
    async with relaying(postgres_settings, broker, batch=60):
        await put(pool, [staged(order, 1) for order in orders])
        await until(lambda: len(seen) == 50)

        await put(pool, [staged(order, 2) for order in orders])
        await own_broker.kill()
        for version in (3, 4, 5):
            await put(pool, [staged(order, version) for order in orders])
        await until(lambda: _away(health))
        assert health.alive() == {f"consumer {GROUP}, lane {n}": "ok" for n in range(1, LANES + 1)}
    # Stopped in the middle of the outage, it has neither waited for Kafka nor lost what it was sending.
    await put(pool, [staged(order, 6) for order in orders])
    await own_broker.restart()
    async with relaying(postgres_settings, broker):
        await drained(pool)
        await until(lambda: len(seen) == 300)
    stop.set()
    await consuming

    assert await versions(broker) == {key: [1, 2, 3, 4, 5, 6] for key in orders}


async def _away(health: Health) -> bool:
    return await health.ready() != {"kafka": "ok"}
