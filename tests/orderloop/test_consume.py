"""The consumer on a real broker and a real database: everything is applied or parked, and nothing is forgotten."""

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import asyncpg
import pytest

from orderloop import consume, failpoints, inbox, kafka, metrics, topics
from orderloop.consume import Consumer, Received
from orderloop.health import Health
from orderloop.ids import new_order_no
from orderloop.outbox import Relay
from orderloop.settings import KafkaSettings, OutboxSettings, PostgresSettings
from tests.orderloop.conftest import GROUP
from tests.support.kafka import AT, Outgoing, committed, outgoing, produce, read_all, tracked, until

TOPIC = topics.PARCEL_TRACKED
DLQ = topics.dead_letters(TOPIC, GROUP)
CANARY = "canary-13800138000"

Made = Callable[..., Awaitable[KafkaSettings]]
Handler = consume.Handler


class Poison(ValueError):
    """What a handler raises for data that it can never apply."""


@dataclass
class House:
    """What a service does with its events, in little."""

    pool: asyncpg.Pool
    batches: list[int] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)  # every delivery, repeats included

    async def apply(self, received: Sequence[Received]) -> None:
        self.batches.append(len(received))
        self.seen += [one.event_id for one in received]
        if bad := [one for one in received if "poison" in one.event_id]:
            raise Poison(f"cannot apply {CANARY} of {len(bad)}")
        async with self.pool.acquire() as conn, conn.transaction():
            fresh = await inbox.claim(conn, [(one.order_no, one.event_id) for one in received])
            await conn.executemany("insert into applied (order_no, event_id) values ($1, $2)", sorted(fresh))

    async def applied(self) -> list[str]:
        return [row[0] for row in await self.pool.fetch("select event_id from applied order by n")]

    async def staged(self) -> int:
        return await self.pool.fetchval("select count(*) from outbox")


@pytest.fixture
def house(pool: asyncpg.Pool) -> House:
    return House(pool)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consume, "_RETRY_SECONDS", (0.01, 0.02, 0.05))
    monkeypatch.setattr(consume, "_POLL_MS", 100)


@dataclass(frozen=True)
class Running:
    consumer: Consumer
    stop: asyncio.Event

    @property
    def partitions(self) -> set[int]:
        joined = self.consumer._joined
        return {one.partition for one in joined.assignment()} if joined else set()


@asynccontextmanager
async def running(
    broker: KafkaSettings, house: House, *, handle: Handler | None = None, health: Health | None = None
) -> AsyncIterator[Running]:
    """A consumer at work; set its event, or leave, to stop it. Its failure is the test's."""
    consumer = Consumer(
        broker, group=GROUP, topics=[TOPIC], handle=handle or house.apply, pool=house.pool, health=health or Health()
    )
    one = Running(consumer, asyncio.Event())
    task = asyncio.create_task(consumer.run(one.stop))
    try:
        yield one
    finally:
        one.stop.set()
        async with asyncio.timeout(20):
            await task


def parcels(names: Sequence[str]) -> list[Outgoing]:
    return [outgoing(tracked(new_order_no(AT)), name) for name in names]


async def test_what_is_sent_is_applied_once_and_acknowledged(topics_made: Made, house: House) -> None:
    broker = await topics_made(TOPIC)
    names = [f"e{n}" for n in range(300)]
    before = metrics.CONSUMED.labels(TOPIC, GROUP)._value.get()
    await produce(broker, parcels(names))

    async with running(broker, house):
        await until(lambda: len(house.seen) >= 300)

    assert sorted(await house.applied()) == sorted(names)
    assert await committed(broker, GROUP, TOPIC) == 300
    assert metrics.CONSUMED.labels(TOPIC, GROUP)._value.get() - before == 300


async def test_an_orders_events_come_in_their_order(topics_made: Made, house: House) -> None:
    broker = await topics_made(TOPIC)
    orders = [new_order_no(AT) for _ in range(20)]
    await produce(broker, [outgoing(tracked(order), f"{order}-{n:02d}") for n in range(20) for order in orders])

    async with running(broker, house):
        await until(lambda: len(house.seen) >= 400)

    for order in orders:
        own = [name for name in house.seen if name.startswith(order)]
        assert own == sorted(own)


async def test_killed_between_commit_and_acknowledgement_it_sees_the_batch_again(
    topics_made: Made, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = await topics_made(TOPIC)
    await produce(broker, in_lane(0, ["e1", "e2", "e3"]))
    with monkeypatch.context() as patched:
        patched.setattr(failpoints, "_plan", {f"{GROUP}.before_offset_commit": ("raise", 1)})
        patched.setattr(failpoints, "_seen", Counter())
        with pytest.raises(failpoints.FailpointReached):
            await _run_until(broker, house, lambda: len(house.seen) >= 1)
    assert len(await house.applied()) >= 1
    assert await committed(broker, GROUP, TOPIC) == 0

    first = len(house.seen)
    async with running(broker, house):
        await until(lambda: set(house.seen[first:]) == {"e1", "e2", "e3"})

    assert sorted(await house.applied()) == ["e1", "e2", "e3"]


async def _run_until(broker: KafkaSettings, house: House, condition: Callable[[], bool]) -> None:
    async with running(broker, house):
        await until(condition)


async def test_one_poison_in_two_hundred_is_parked_and_the_rest_applied(topics_made: Made, house: House) -> None:
    broker = await topics_made(TOPIC)
    await produce(broker, parcels([f"e{n}" for n in range(120)] + ["poison"] + [f"f{n}" for n in range(79)]))

    async with running(broker, house):
        await until(lambda: _count(house, 199))

    assert len(set(await house.applied())) == 199
    (letter,) = await house.pool.fetch("select topic, order_no, body, record::text from outbox")
    assert letter["topic"] == DLQ
    assert re.fullmatch(rf"{re.escape(broker.topic_prefix + TOPIC)}-\d+-\d+", letter["order_no"])
    assert await committed(broker, GROUP, TOPIC) == 200


async def _count(house: House, expected: int) -> bool:
    return len(await house.applied()) >= expected


async def test_a_dead_letter_is_the_record_itself_with_the_reason_why(
    topics_made: Made, house: House, postgres_settings: PostgresSettings
) -> None:
    broker = await topics_made(TOPIC, DLQ)
    odd = [
        Outgoing(TOPIC, b"\xff\0key", b"\xffnot json", [("ce_id", b"\xff"), ("x-null", None), ("x-empty", b"")]),
        Outgoing(TOPIC, None, b"{}", []),
        Outgoing(TOPIC, b"tombstone", None, []),
        Outgoing(topics.PARCEL_TRACKED, b"key", CANARY.encode(), outgoing(tracked(new_order_no(AT)), "x").headers),
        *parcels(["poison"]),
    ]
    good = parcels(["e1", "e2"])
    await produce(broker, [good[0], *odd, good[1]])

    async with running(broker, house):
        await until(lambda: _count(house, 2))
        await until(lambda: _staged(house, 5))
    relay = Relay(
        source="/order-core",
        postgres_settings=postgres_settings,
        kafka_settings=broker,
        settings=OutboxSettings(),
    )
    stop = asyncio.Event()
    publishing = asyncio.create_task(relay.run(stop))
    await until(lambda: _staged(house, 0))
    stop.set()
    await publishing

    letters = await read_all(broker, DLQ)
    by_key = {letter.key: letter for letter in letters}
    assert len(letters) == len(odd)
    for sent in odd:
        letter = by_key[sent.key]
        headers = list(letter.headers)
        assert letter.value == (sent.value or b"")
        assert headers[: len(sent.headers)] == list(sent.headers)
        added = dict(headers[len(sent.headers) :])
        assert list(added) == ["dlq_reason", "dlq_attempts", "dlq_origin", "dlq_first_failure"]
        assert CANARY.encode() not in added["dlq_reason"]
        assert added["dlq_origin"].startswith((broker.topic_prefix + TOPIC).encode())
    assert dict(by_key[odd[-1].key].headers)["dlq_reason"].startswith(b"Poison in test_consume.py:")
    assert int(dict(by_key[odd[-1].key].headers)["dlq_attempts"]) >= 1


async def _staged(house: House, expected: int) -> bool:
    return await house.staged() == expected


@pytest.mark.parametrize(
    "trouble",
    [OSError("no route to host"), asyncpg.DeadlockDetectedError("deadlock"), asyncpg.DiskFullError("no space left")],
    ids=lambda error: type(error).__name__,
)
async def test_the_infrastructures_trouble_parks_nothing_and_acknowledges_nothing(
    topics_made: Made, house: House, trouble: Exception
) -> None:
    broker = await topics_made(TOPIC)
    await produce(broker, parcels(["e1", "poison", "e2"]))
    calls = 0
    over = asyncio.Event()

    async def troubled(received: Sequence[Received]) -> None:
        nonlocal calls
        calls += 1
        if not over.is_set():
            raise trouble
        await house.apply(received)

    async with running(broker, house, handle=troubled):
        # More calls than one batch is retried in place: it has been sought back to and polled again.
        await until(lambda: calls > 3 * len(consume._RETRY_SECONDS))
        assert await committed(broker, GROUP, TOPIC) == 0
        assert (await house.staged(), await house.applied()) == (0, [])
        over.set()
        await until(lambda: _count(house, 2))

    assert sorted(await house.applied()) == ["e1", "e2"]
    assert await house.staged() == 1
    assert await committed(broker, GROUP, TOPIC) == 3


async def test_a_poison_is_parked_once_however_often_its_batch_is_tried_again(topics_made: Made, house: House) -> None:
    """Else a database that flaps would blow the fuse with one bad record."""
    broker = await topics_made(TOPIC)
    await produce(broker, [Outgoing(TOPIC, b"malformed", b"{}"), *parcels(["poison", "e1", "e2", "e3"])])
    calls = 0

    async def flapping(received: Sequence[Received]) -> None:
        nonlocal calls
        if all("poison" not in one.event_id for one in received):
            calls += 1
            if calls < 15:  # parked as often, these two would blow the fuse
                raise OSError("gone again")
        await house.apply(received)

    async with running(broker, house, handle=flapping):
        await until(lambda: _count(house, 3))

    assert await house.staged() == 2
    assert sorted(await house.applied()) == ["e1", "e2", "e3"]


async def test_a_real_connection_killed_in_mid_batch_is_retried(
    topics_made: Made, house: House, admin: asyncpg.Connection
) -> None:
    broker = await topics_made(TOPIC)
    await produce(broker, parcels([f"e{n}" for n in range(50)]))
    killed = 0

    async def cut(received: Sequence[Received]) -> None:
        nonlocal killed
        if killed < 3:
            killed += 1
            async with house.pool.acquire() as conn, conn.transaction():
                await inbox.claim(conn, [(one.order_no, one.event_id) for one in received])
                await admin.execute("select pg_terminate_backend($1)", await conn.fetchval("select pg_backend_pid()"))
                await conn.execute("select 1")
        await house.apply(received)

    async with running(broker, house, handle=cut):
        await until(lambda: _count(house, 50))

    assert killed == 3
    assert (len(await house.applied()), await house.staged()) == (50, 0)


async def test_twenty_bad_ones_in_a_row_stop_it_and_nothing_more_is_acknowledged(
    topics_made: Made, house: House
) -> None:
    broker = await topics_made(TOPIC)
    order_no = new_order_no(AT)
    bad = [outgoing(tracked(order_no), f"poison-{n:02d}") for n in range(25)]
    await produce(broker, parcels(["e1"]))
    health = Health()

    async with running(broker, house, health=health):
        await until(lambda: _count(house, 1))
        await until(lambda: _acknowledged(broker, 1))
        assert (await health.ready()) == {"kafka": "ok"}
        await produce(broker, bad)
        await until(lambda: _staged(house, 20))
        await until(lambda: metrics.FUSE_BLOWN.labels(GROUP)._value.get() == 1)
        await produce(broker, parcels(["later"]))

        assert (await health.ready())["kafka"].startswith("FuseBlown")
        assert health.alive() == {f"consumer {GROUP}, lane {n}": "ok" for n in range(1, consume.LANES + 1)}
    assert (await house.applied(), await house.staged()) == (["e1"], 20)
    assert await committed(broker, GROUP, TOPIC) == 1
    metrics.FUSE_BLOWN.labels(GROUP).set(0)


async def _acknowledged(broker: KafkaSettings, expected: int) -> bool:
    return await committed(broker, GROUP, TOPIC) == expected


def in_lane(lane: int, names: Sequence[str]) -> list[Outgoing]:
    """Events of orders whose partitions one lane takes."""
    found: list[Outgoing] = []
    for name in names:
        order_no = new_order_no(AT)
        while kafka.partition(order_no.encode(), topics.PARTITIONS) % consume.LANES != lane:
            order_no = new_order_no(AT)
        found.append(outgoing(tracked(order_no), name))
    return found


async def test_lanes_are_under_way_at_once_and_share_no_order(topics_made: Made, house: House) -> None:
    broker = await topics_made(TOPIC)
    orders = [new_order_no(AT) for _ in range(40)]
    both = asyncio.Barrier(2)
    shared: list[set[str]] = []

    async def meeting(received: Sequence[Received]) -> None:
        if len(shared) < 2:
            shared.append({one.order_no for one in received})
            await both.wait()  # each is waited for by the other: one after the other would never end
        await house.apply(received)

    await produce(broker, [outgoing(tracked(order), f"{order}-{n}") for n in range(5) for order in orders])
    async with running(broker, house, handle=meeting):
        await until(lambda: _count(house, 200))

    assert not shared[0] & shared[1]


async def test_a_poison_in_one_lane_is_not_the_others_business(topics_made: Made, house: House) -> None:
    broker = await topics_made(TOPIC)
    good = [f"e{n}" for n in range(50)]
    await produce(broker, [*in_lane(0, good), *in_lane(1, ["poison", *(f"f{n}" for n in range(49))])])

    async with running(broker, house):
        await until(lambda: _count(house, 99))
        await until(lambda: _acknowledged(broker, 100))

    assert sorted(set(house.seen) & set(good)) == sorted(good)
    assert Counter(name for name in house.seen if name in good).most_common(1)[0][1] == 1, "never bisected"
    assert await house.staged() == 1


async def test_a_lane_in_trouble_is_read_again_and_the_other_goes_on(topics_made: Made, house: House) -> None:
    broker = await topics_made(TOPIC)
    over = asyncio.Event()
    refused = 0

    async def troubled(received: Sequence[Received]) -> None:
        nonlocal refused
        if not over.is_set() and any(one.event_id.startswith("stuck") for one in received):
            refused += 1
            raise ConnectionResetError
        await house.apply(received)

    await produce(broker, [*in_lane(0, ["stuck-1", "stuck-2"]), *in_lane(1, ["e1", "e2"])])
    async with running(broker, house, handle=troubled):
        await until(lambda: _acknowledged(broker, 2))
        # More than one batch is retried in place: the lane has been sought back to and polled again.
        await until(lambda: refused > 2 * len(consume._RETRY_SECONDS))
        await produce(broker, in_lane(1, ["e3"]))
        await until(lambda: _acknowledged(broker, 3))
        assert set(await house.applied()) == {"e1", "e2", "e3"}
        over.set()
        await until(lambda: _acknowledged(broker, 5))

    assert sorted(await house.applied()) == ["e1", "e2", "e3", "stuck-1", "stuck-2"]
    assert await house.staged() == 0


async def test_a_blown_fuse_in_one_lane_stops_them_all(topics_made: Made, house: House) -> None:
    broker = await topics_made(TOPIC)
    await produce(broker, [*in_lane(0, [f"poison-{n}" for n in range(25)]), *in_lane(1, ["e1"])])

    async with running(broker, house):
        await until(lambda: metrics.FUSE_BLOWN.labels(GROUP)._value.get() == 1)
        acknowledged = await committed(broker, GROUP, TOPIC)
        await produce(broker, in_lane(1, ["later"]))

    assert "later" not in house.seen
    assert await committed(broker, GROUP, TOPIC) == acknowledged
    assert acknowledged in {0, 1}  # the other lane's, if that was as fast
    metrics.FUSE_BLOWN.labels(GROUP).set(0)


async def test_a_second_consumer_that_joins_while_the_lanes_are_in_mid_batch_costs_nothing(
    topics_made: Made, house: House
) -> None:
    broker = await topics_made(TOPIC)
    names = [f"e{n}" for n in range(600)]
    await produce(broker, parcels(names[:300]))
    entered, go_on = asyncio.Barrier(consume.LANES + 1), asyncio.Event()

    async def slow(received: Sequence[Received]) -> None:
        if not go_on.is_set():
            await entered.wait()
            await go_on.wait()
        await house.apply(received)

    other = House(house.pool)
    parts = Health()
    async with running(broker, house, handle=slow):
        async with asyncio.timeout(30):
            await entered.wait()  # every lane is in the middle of its batch
        async with running(broker, other, health=parts):
            await until(lambda: _ready(parts))  # it owns partitions, of which some were the first one's
            await produce(broker, parcels(names[300:]))
            go_on.set()
            await until(lambda: _count(house, 600))
        await until(lambda: _acknowledged(broker, 600))

    assert sorted(await house.applied()) == sorted(names)
    assert await house.staged() == 0


async def _ready(health: Health) -> bool:
    return (await health.ready()) == {"kafka": "ok"}


async def test_trouble_across_a_rebalance_loses_nothing(topics_made: Made, house: House) -> None:
    broker = await topics_made(TOPIC)
    names = [f"e{n}" for n in range(200)]
    await produce(broker, parcels(names))
    over = asyncio.Event()
    calls = 0

    async def troubled(received: Sequence[Received]) -> None:
        nonlocal calls
        calls += 1
        if not over.is_set():
            raise ConnectionResetError
        await house.apply(received)

    parts = Health()
    async with running(broker, house, handle=troubled):
        await until(lambda: calls > 1)
        async with running(broker, house, handle=troubled, health=parts):
            await until(lambda: _ready(parts))
            seen = calls
            await until(lambda: calls > seen + 4)
        over.set()
        await until(lambda: _count(house, 200))
        await until(lambda: _acknowledged(broker, 200))

    assert sorted(await house.applied()) == sorted(names)


async def test_a_batch_that_outlives_two_rebalances_takes_no_acknowledgement_back(
    topics_made: Made, house: House
) -> None:
    """Its partitions go to somebody who comes further in them, and return."""
    broker = await topics_made(TOPIC)
    names = [f"e{n}" for n in range(240)]
    records = parcels(names)
    await produce(broker, records[:120])
    in_hand = 0
    go_on = asyncio.Event()

    async def held(received: Sequence[Received]) -> None:
        nonlocal in_hand
        in_hand += len(received)
        await go_on.wait()
        await house.apply(received)

    async with running(broker, house, handle=held) as first:
        await until(lambda: in_hand == 120)
        async with running(broker, house) as second:
            await until(lambda: len(second.partitions) == topics.PARTITIONS // 2)
            its = [one for one in records if kafka.partition(one.key, topics.PARTITIONS) in second.partitions]
            await produce(broker, records[120:])
            await until(lambda: _acknowledged(broker, len(its)))
        await until(lambda: len(first.partitions) == topics.PARTITIONS)
        go_on.set()
        await until(lambda: _acknowledged(broker, 240))

    assert sorted(await house.applied()) == sorted(names)


async def test_asked_to_stop_it_finishes_and_acknowledges_the_batch_in_hand(topics_made: Made, house: House) -> None:
    broker = await topics_made(TOPIC)
    await produce(broker, parcels([f"e{n}" for n in range(100)]))
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def slow(received: Sequence[Received]) -> None:
        entered.set()
        await go_on.wait()
        await house.apply(received)

    async with running(broker, house, handle=slow) as one:
        await asyncio.wait_for(entered.wait(), 30)
        one.stop.set()
        go_on.set()

    assert await committed(broker, GROUP, TOPIC) == len(await house.applied()) > 0


async def test_it_waits_for_topics_that_do_not_exist_yet_and_stops_at_once_when_told_to(
    topics_made: Made, house: House, broker: KafkaSettings
) -> None:
    health = Health()
    async with running(broker, house, health=health):
        await until(lambda: bool(health.alive()))
        assert await health.ready() != {"kafka": "ok"}
        await topics_made(TOPIC)
        await produce(broker, parcels(["e1"]))
        await until(lambda: _count(house, 1))

    async with asyncio.timeout(5):
        async with running(
            KafkaSettings.model_validate({"bootstrap": broker.bootstrap, "topic_prefix": "none."}), house
        ):
            await asyncio.sleep(0)


async def test_without_a_broker_it_is_alive_not_ready_and_stops_when_told_to(house: House) -> None:
    health = Health()
    async with asyncio.timeout(10):
        nowhere = KafkaSettings.model_validate({"bootstrap": "127.0.0.1:1", "topic_prefix": "t."})
        async with running(nowhere, house, health=health):
            await until(lambda: bool(health.alive()))
            assert set(health.alive().values()) == {"ok"}
            assert await health.ready() == {"kafka": "Permanent: no partitions assigned"}


async def test_a_kafka_that_takes_the_call_and_never_answers_is_given_up_and_called_again(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consume, "_ANSWER_SECONDS", 0.3)
    monkeypatch.setattr(consume, "_PATIENCE_SECONDS", 0.1)
    calls: list[asyncio.StreamWriter] = []

    def fall_silent(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        calls.append(writer)

    async with await asyncio.start_server(fall_silent, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        silent = KafkaSettings.model_validate({"bootstrap": f"127.0.0.1:{port}", "topic_prefix": "t."})
        async with running(silent, house):
            await until(lambda: len(calls) >= 3)
        for writer in calls:
            writer.close()
