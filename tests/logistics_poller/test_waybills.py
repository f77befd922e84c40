"""From a requested shipment to printed labels: one outbound per shipment at the warehouse's own ledger."""

import json
import os
import signal
import subprocess
import sys
from datetime import timedelta

import asyncpg
import httpx
import pytest

from logistics_poller.schedule import Plans
from logistics_poller.waybills import Labelling, phone_tail
from logistics_poller.wms import Warehouse
from orderloop.events import AnomalyRaised, WaybillCreated
from orderloop.tracing import trace_id_of
from tests.support.databases import Database
from tests.support.kafka import until
from tests.support.logistics import (
    TRACEPARENT,
    MovableClock,
    Outside,
    new_order,
    shipment_requested,
    staged,
    take_in,
    waybill_created,
)

# One run of the worker in a process of its own, to be killed at a failpoint.
_ONE_RUN = """
import asyncio, sys, httpx
from logistics_poller.schedule import Plans
from logistics_poller.waybills import Labelling
from logistics_poller.wms import Warehouse
from orderloop import postgres
from orderloop.clock import SystemClock
from orderloop.settings import PostgresSettings

async def main():
    settings = PostgresSettings(url=sys.argv[1])
    async with postgres.pool(settings, application_name="to be killed") as pool, httpx.AsyncClient() as http:
        await Labelling(pool, Warehouse(http, base_url=sys.argv[2]), clock=SystemClock(), plans=Plans()).run_due()

asyncio.run(main())
"""


def labelling(pool: asyncpg.Pool, client: httpx.AsyncClient, outside: Outside, clock: MovableClock) -> Labelling:
    return Labelling(pool, Warehouse(client, base_url=outside.wms.url), clock=clock, plans=Plans())


async def request(pool: asyncpg.Pool, order_no: str, shipment: int = 1) -> None:
    event = shipment_requested(order_no, shipment=shipment)
    await take_in(pool, (event, f"{event.shipment_id}:requested"))


async def test_a_requested_shipment_becomes_a_label_that_is_followed(
    pool: asyncpg.Pool, client: httpx.AsyncClient, outside: Outside
) -> None:
    order_no = new_order()
    outside.wms.tell(f"/sim/orders/{order_no}", parcels=2)
    await request(pool, order_no)

    assert await labelling(pool, client, outside, MovableClock()).run_due() == 1

    events = await staged(pool, order_no)
    waybills = [one.event.waybill_no for one in events]
    assert [one.event_id for one in events] == [f"{order_no}_S1:waybill:{number}" for number in waybills]
    assert [(one.event.parcel_no, one.event.parcel_count) for one in events] == [(1, 2), (2, 2)]
    assert {trace_id_of(one.traceparent) for one in events} == {trace_id_of(TRACEPARENT)}
    rows = await pool.fetch("select * from parcel where order_no = $1 order by waybill_no", order_no)
    assert [row["waybill_no"] for row in rows] == sorted(waybills)
    assert {(row["status"], row["phone_tail"], row["traceparent"]) for row in rows} == {
        ("label_printed", "1234", TRACEPARENT)
    }
    assert await pool.fetchval("select count(*) from waybill_timer") == 2
    assert outside.active_shipments(order_no) == [f"{order_no}_S1"]


async def test_the_receivers_address_is_gone_once_the_warehouse_has_it(
    pool: asyncpg.Pool, client: httpx.AsyncClient, outside: Outside
) -> None:
    order_no = new_order()
    await request(pool, order_no)
    assert "体育西路" in await pool.fetchval("select request::text from shipment")
    await labelling(pool, client, outside, MovableClock()).run_due()
    row = await pool.fetchrow("select status, request, shipment_no from shipment")
    assert row is not None
    assert (row["status"], row["request"]) == ("accepted", None)


async def test_our_own_label_coming_back_and_a_repeated_request_change_nothing(
    pool: asyncpg.Pool, client: httpx.AsyncClient, outside: Outside
) -> None:
    order_no = new_order()
    await request(pool, order_no)
    worker = labelling(pool, client, outside, MovableClock())
    await worker.run_due()
    label = (await staged(pool, order_no))[0]
    before = await pool.fetchrow("select * from parcel")

    await take_in(pool, (label.event, label.event_id), (label.event, label.event_id))
    await request(pool, order_no)
    await take_in(pool, (shipment_requested(order_no), "the same under another id"))

    assert await worker.run_due() == 0
    assert await pool.fetchrow("select * from parcel") == before
    assert len(await staged(pool, order_no)) == 1
    assert outside.calls(order_no) == [200]


@pytest.mark.parametrize("failpoint", ["before_outbound", "after_outbound", "before_shipment_commit"])
async def test_a_worker_killed_around_the_call_ships_once(
    db: Database, pool: asyncpg.Pool, client: httpx.AsyncClient, outside: Outside, failpoint: str
) -> None:
    order_no = new_order()
    await request(pool, order_no)
    killed = subprocess.run(  # noqa: ASYNC221 - nothing else runs meanwhile
        [sys.executable, "-c", _ONE_RUN, db.app_url, outside.wms.url],
        env=os.environ | {"FAILPOINT": f"logistics-poller.{failpoint}:kill"},
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    await until(lambda: _forgotten(pool))
    assert await staged(pool, order_no) == []

    clock = MovableClock()
    worker = labelling(pool, client, outside, clock)
    assert await worker.run_due() == 0  # the dead worker's lease still holds
    clock.ahead = timedelta(seconds=31)
    assert await worker.run_due() == 1

    assert [type(one.event) for one in await staged(pool, order_no)] == [WaybillCreated]
    assert outside.active_shipments(order_no) == [f"{order_no}_S1"]
    assert outside.calls(order_no) == ([200] if failpoint == "before_outbound" else [200, 200])


async def _forgotten(pool: asyncpg.Pool) -> bool:
    """Whether PostgreSQL has noticed that the killed worker is gone; its locks last until then."""
    connections = (
        "select from pg_stat_activity where datname = current_database() and application_name = 'to be killed'"
    )
    return not await pool.fetch(connections)


@pytest.mark.parametrize(("mode", "first_answer"), [("error", 503), ("html", 200), ("lost_answer", 500)], ids=str)
async def test_an_answer_that_says_nothing_is_repeated_with_the_same_key(
    pool: asyncpg.Pool, client: httpx.AsyncClient, outside: Outside, mode: str, first_answer: int
) -> None:
    order_no = new_order()
    outside.wms.tell("/sim/faults", mode=mode, order_no=order_no)
    await request(pool, order_no)
    clock = MovableClock()
    worker = labelling(pool, client, outside, clock)

    assert await worker.run_due() == 1
    assert await staged(pool, order_no) == []
    assert await worker.run_due() == 0  # not yet: two seconds of patience
    clock.ahead = timedelta(seconds=2.5)
    assert await worker.run_due() == 1

    assert [type(one.event) for one in await staged(pool, order_no)] == [WaybillCreated]
    assert outside.calls(order_no) == [first_answer, 200]
    assert outside.active_shipments(order_no) == [f"{order_no}_S1"]


async def test_a_warehouse_that_is_too_slow_is_asked_again_and_ships_once(pool: asyncpg.Pool, outside: Outside) -> None:
    order_no = new_order()
    outside.wms.tell("/sim/faults", mode="slow", order_no=order_no, seconds=1)
    await request(pool, order_no)
    clock = MovableClock()
    async with httpx.AsyncClient(timeout=0.3, trust_env=False) as impatient:
        worker = labelling(pool, impatient, outside, clock)
        await worker.run_due()
        assert await staged(pool, order_no) == []
        clock.ahead = timedelta(seconds=3)
        await worker.run_due()
    assert len(await staged(pool, order_no)) == 1
    assert outside.active_shipments(order_no) == [f"{order_no}_S1"]


async def test_a_refusal_for_good_is_shown_to_a_person_and_not_repeated(
    pool: asyncpg.Pool, client: httpx.AsyncClient, outside: Outside
) -> None:
    order_no = new_order()
    outside.wms.tell("/sim/faults", mode="refuse", order_no=order_no)
    await request(pool, order_no)
    clock = MovableClock()
    worker = labelling(pool, client, outside, clock)
    await worker.run_due()
    clock.ahead = timedelta(days=1)

    assert await worker.run_due() == 0
    (told,) = await staged(pool, order_no)
    assert isinstance(told.event, AnomalyRaised)
    assert told.event.kind == "shipment_refused"
    assert told.event.evidence["reason"] == "OUT_OF_STOCK: nothing left to pick"
    assert "13800001234" not in told.event.encode().decode()


async def test_a_long_silence_is_shown_to_a_person_once_and_retried_all_the_same(
    pool: asyncpg.Pool, client: httpx.AsyncClient, outside: Outside
) -> None:
    order_no = new_order()
    outside.wms.tell("/sim/faults", mode="error", order_no=order_no, times=10)
    await request(pool, order_no)
    clock = MovableClock()
    worker = labelling(pool, client, outside, clock)
    for _ in range(11):
        assert await worker.run_due() == 1
        clock.ahead += timedelta(minutes=6)
    assert [getattr(one.event, "kind", "label") for one in await staged(pool, order_no)] == [
        "shipment_unanswered",
        "label",
    ]


async def test_a_second_shipment_of_an_order_is_shown_to_a_person_and_never_made(
    pool: asyncpg.Pool, client: httpx.AsyncClient, outside: Outside
) -> None:
    order_no = new_order()
    first, second = shipment_requested(order_no), shipment_requested(order_no, shipment=2)
    await take_in(pool, (first, "one"), (second, "two"))
    await labelling(pool, client, outside, MovableClock()).run_due()

    events = [one.event for one in await staged(pool, order_no)]
    assert [getattr(event, "kind", "label") for event in events] == ["second_shipment", "label"]
    assert outside.active_shipments(order_no) == [f"{order_no}_S1"]


async def test_one_bad_shipment_leaves_the_others(
    pool: asyncpg.Pool, client: httpx.AsyncClient, outside: Outside
) -> None:
    bad, good = new_order(), new_order()
    await request(pool, bad)
    await request(pool, good)
    await pool.execute("update shipment set request = '[]' where order_no = $1", bad)
    await labelling(pool, client, outside, MovableClock()).run_due()
    assert len(await staged(pool, good)) == 1
    assert outside.active_shipments(good) == [f"{good}_S1"]


async def test_an_outside_warehouse_may_publish_the_label_itself(pool: asyncpg.Pool) -> None:
    order_no = new_order()
    event = waybill_created(order_no, "780000099001", created_at=MovableClock().now())
    await take_in(pool, (event, "its own id"), (event, "again under another id"))
    assert await pool.fetchval("select count(*) from parcel where order_no = $1", order_no) == 1
    assert await pool.fetchval("select count(*) from waybill_timer") == 1
    assert await staged(pool, order_no) == []


@pytest.mark.parametrize(
    ("phone", "tail"), [("13800001234", "1234"), ("+86 138 0000 1234", "1234"), ("", None), ("12", None), ("无", None)]
)
def test_only_four_digits_of_the_telephone_are_kept(phone: str, tail: str | None) -> None:
    assert phone_tail(json.dumps({"receiver": {"phone": phone}})) == tail
