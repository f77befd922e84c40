"""Polling couriers: what is told, once; what is unknown, never."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import asyncpg
import httpx
import pytest
import pytest_asyncio
from redis.asyncio import Redis

from logistics_poller.poll import Poller
from logistics_poller.schedule import SHORTEST_GAP, Plans
from logistics_poller.snapshots import Snapshots
from orderloop.events import TrackingRequested
from orderloop.tracing import trace_id_of
from tests.support.databases import Database
from tests.support.logistics import (
    HOUR,
    TRACEPARENT,
    MovableClock,
    Outside,
    Published,
    new_order,
    staged,
    take_in,
    waybill_created,
)


@pytest_asyncio.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(redis_url) as redis:
        yield redis


class Bench:
    """Everything a poll needs, and a way to put parcels on their way."""

    def __init__(self, pool: asyncpg.Pool, client: httpx.AsyncClient, outside: Outside, redis: Redis) -> None:
        self.pool = pool
        self.outside = outside
        self.clock = MovableClock()
        self.snapshots = Snapshots(redis)
        self.poller = Poller(pool, outside.couriers(client), self.snapshots, clock=self.clock, plans=Plans())

    async def parcel(
        self,
        waybill_no: str,
        hours: float,
        *faults: str,
        express_code: str = "zto",
        carrier: str | None = None,
        order_no: str | None = None,
    ) -> str:
        """A parcel whose label was printed so many hours ago; returns its order_no."""
        order_no = order_no or new_order()
        label_at = datetime.now(UTC) - hours * HOUR
        self.outside.travels(waybill_no, carrier or express_code, label_at=label_at, faults=faults)
        event = waybill_created(order_no, waybill_no, express_code=express_code, created_at=label_at)
        await take_in(self.pool, (event, f"{waybill_no} printed"))
        return order_no

    async def told(self, order_no: str) -> list[str]:
        """What was published, each as its status, anomaly kind or `pickup`."""
        return [_name(one) for one in await staged(self.pool, order_no)]


def _name(one: Published) -> str:
    event = one.event
    return getattr(event, "status", None) or getattr(event, "kind", None) or f"pickup by {event.source}"


@pytest_asyncio.fixture
async def bench(pool: asyncpg.Pool, client: httpx.AsyncClient, outside: Outside, redis: Redis) -> Bench:
    return Bench(pool, client, outside, redis)


WHOLE_WAY = ["in_transit", "delivering", "delivered"]


async def test_a_parcel_that_travelled_is_picked_up_once_and_tells_its_way(bench: Bench) -> None:
    order_no = await bench.parcel("780000010001", 60)
    assert await bench.poller.run_due() == 1

    assert await bench.told(order_no) == ["pickup by aggregator", *WHOLE_WAY]
    events = await staged(bench.pool, order_no)
    assert events[0].event_id == "zto:780000010001:picked_up"
    assert events[1].event_id.startswith("zto:780000010001:in_transit:2")
    assert len({one.event_id for one in events}) == 4
    assert {trace_id_of(one.traceparent) for one in events} == {trace_id_of(TRACEPARENT)}
    row = await bench.pool.fetchrow("select * from parcel")
    assert row is not None
    assert (row["status"], row["answered_by"], row["recognised_as"]) == ("delivered", "kuaidi100", "zhongtong")
    assert row["finished_at"] is not None
    assert await bench.pool.fetchval("select count(*) from waybill_timer") == 0
    assert await bench.pool.fetchval("select count(distinct courier) from parcel_scan") == 1


async def test_asking_again_tells_nothing_twice(bench: Bench) -> None:
    order_no = await bench.parcel("780000010002", 12)  # picked up, not delivered
    await bench.poller.run_due()
    once = await bench.told(order_no)
    assert once[0] == "pickup by aggregator"
    await bench.pool.execute("update waybill_timer set due_at = now()")
    assert await bench.poller.run_due() == 1
    assert await bench.told(order_no) == once


async def test_a_label_is_not_a_pickup(bench: Bench) -> None:
    order_no = await bench.parcel("780000010003", 10, "label_only")
    await bench.poller.run_due()
    assert await bench.told(order_no) == []
    assert await bench.pool.fetchval("select status from parcel") == "label_printed"
    assert await bench.pool.fetchval("select count(*) from parcel_scan") == 1


@pytest.mark.parametrize("fault", ["aggregator_down", "aggregator_html"])
async def test_when_the_aggregator_does_not_answer_the_courier_itself_does(bench: Bench, fault: str) -> None:
    waybill_no = f"78000002{len(fault):04d}"
    order_no = await bench.parcel(waybill_no, 60, fault)
    await bench.poller.run_due()
    assert await bench.told(order_no) == ["pickup by direct", *WHOLE_WAY]
    assert await bench.pool.fetchval("select distinct courier from parcel_scan") == "zto"


async def test_a_wrong_courier_code_is_corrected_and_the_events_keep_the_labels_code(bench: Bench) -> None:
    order_no = await bench.parcel("780000030001", 60, express_code="sto", carrier="zto")
    await bench.poller.run_due()
    assert await bench.told(order_no) == ["pickup by aggregator", *WHOLE_WAY]
    assert (await staged(bench.pool, order_no))[0].event.express_code == "sto"
    assert await bench.pool.fetchval("select recognised_as from parcel") == "zhongtong"


async def test_scans_out_of_order_and_backwards_are_understood(bench: Bench) -> None:
    order_no = await bench.parcel("780000030002", 100, "out_of_order", "backwards")
    await bench.poller.run_due()
    assert await bench.told(order_no) == [
        "pickup by aggregator",
        "in_transit",
        "delivering",
        "in_transit",
        "delivering",
        "delivered",
    ]


async def test_a_returned_parcel_is_shown_to_a_person(bench: Bench) -> None:
    order_no = await bench.parcel("780000030003", 60, "returned")
    await bench.poller.run_due()
    assert (await bench.told(order_no))[-2:] == ["returned", "parcel_returned"]
    assert await bench.pool.fetchval("select count(*) from waybill_timer") == 0


async def test_24_hours_without_a_track_are_told_once(bench: Bench) -> None:
    order_no = await bench.parcel("780000040001", 24.5, "silent")
    await bench.poller.run_due()
    assert await bench.told(order_no) == ["silent", "parcel_silent"]
    await bench.pool.execute("update waybill_timer set due_at = now()")
    await bench.poller.run_due()
    assert await bench.told(order_no) == ["silent", "parcel_silent"]
    assert await bench.pool.fetchval("select count(*) from waybill_timer") == 1  # it may still be picked up


async def test_after_72_hours_a_parcel_is_given_up_and_somebody_hears_of_it(bench: Bench) -> None:
    order_no = await bench.parcel("780000040002", 73, "silent")
    await bench.poller.run_due()
    assert await bench.told(order_no) == ["exhausted", "parcel_exhausted"]
    assert await bench.pool.fetchval("select count(*) from waybill_timer") == 0


async def test_a_parcel_that_was_given_up_is_asked_for_anew_for_as_long_as_a_new_one(bench: Bench) -> None:
    order_no = await bench.parcel("780000040003", 73, "silent")
    await bench.poller.run_due()
    request = TrackingRequested(
        order_no=order_no, express_code="zto", waybill_no="780000040003", requested_at=datetime.now(UTC)
    )
    await take_in(bench.pool, (request, "zto:780000040003:tracking-requested:4"))

    due_in = await bench.pool.fetchval("select due_at - now() from waybill_timer")
    assert timedelta(0) < due_in <= SHORTEST_GAP  # its last ask was a moment ago
    await bench.pool.execute("update waybill_timer set due_at = now()")
    await bench.poller.run_due()
    assert await bench.told(order_no) == ["exhausted", "parcel_exhausted"]
    assert await bench.pool.fetchval("select status from parcel") == "label_printed"

    await bench.pool.execute("update parcel set followed_since = now() - interval '73 hours'")
    await bench.pool.execute("update waybill_timer set due_at = now()")
    await bench.poller.run_due()
    assert await bench.told(order_no) == ["exhausted", "parcel_exhausted"] * 2
    assert len({one.event_id for one in await staged(bench.pool, order_no)}) == 4  # nobody takes them for a repeat


async def test_a_parcel_that_has_arrived_is_not_asked_for_anew(bench: Bench) -> None:
    order_no = await bench.parcel("780000040004", 60)
    await bench.poller.run_due()
    request = TrackingRequested(
        order_no=order_no, express_code="zto", waybill_no="780000040004", requested_at=datetime.now(UTC)
    )
    await take_in(bench.pool, (request, "zto:780000040004:tracking-requested:9"))

    assert await bench.pool.fetchval("select count(*) from waybill_timer") == 0
    assert await bench.pool.fetchval("select status from parcel") == "delivered"


async def test_while_nobody_answers_nothing_is_known(bench: Bench) -> None:
    order_no = await bench.parcel("780000050001", 60, "aggregator_down", "direct_down")
    before = datetime.now(UTC)
    await bench.poller.run_due()
    assert await bench.told(order_no) == []
    row = await bench.pool.fetchrow("select * from parcel natural join waybill_timer")
    assert row is not None
    assert (row["status"], row["answered_at"], row["failures"]) == ("label_printed", None, 1)
    assert row["due_at"] - before < HOUR  # sooner than the tier's six hours
    assert await bench.snapshots.find("zto", "780000050001") is None


async def test_an_empty_answer_is_remembered_as_asked_and_is_no_fact(bench: Bench) -> None:
    order_no = await bench.parcel("780000050002", 3, "silent")
    await bench.poller.run_due()
    assert await bench.told(order_no) == []
    kept = await bench.snapshots.find("zto", "780000050002")
    assert kept is not None
    assert (kept.answer, kept.status, kept.scans) == ("nothing_yet", "label_printed", ())


async def test_one_bad_parcel_leaves_the_others(bench: Bench, db: Database) -> None:
    bad = await bench.parcel("780000060001", 60)
    good = await bench.parcel("780000060002", 60)
    owner = await asyncpg.connect(db.owner_url)
    await owner.execute(f"alter table outbox add constraint broken check (order_no <> '{bad}')")
    await owner.close()

    assert await bench.poller.run_due() == 2

    assert await bench.told(bad) == []
    assert await bench.told(good) == ["pickup by aggregator", *WHOLE_WAY]
    lease = await bench.pool.fetchval("select due_at - now() from waybill_timer where waybill_no = '780000060001'")
    assert timedelta(minutes=25) < lease < timedelta(minutes=35)  # asked again, but never sooner than is allowed


async def test_two_pollers_never_ask_for_the_same_parcel_at_once(
    bench: Bench, client: httpx.AsyncClient, outside: Outside
) -> None:
    numbers = [f"7800000700{n:02d}" for n in range(12)]
    for number in numbers:
        await bench.parcel(number, 60)
    other = Poller(bench.pool, outside.couriers(client), bench.snapshots, clock=bench.clock, plans=Plans(), at_once=3)
    polled = await asyncio.gather(bench.poller.run_due(), other.run_due())
    assert sum(polled) == 12
    assert [outside.asks(number) for number in numbers] == [1] * 12


async def test_orders_packed_together_share_their_waybills_asks(bench: Bench, outside: Outside) -> None:
    first = await bench.parcel("780000080001", 60)
    second = await bench.parcel("780000080001", 60, order_no=new_order())
    await bench.poller.run_due()
    assert await bench.told(first) == await bench.told(second) == ["pickup by aggregator", *WHOLE_WAY]
    assert outside.asks("780000080001") == 1
