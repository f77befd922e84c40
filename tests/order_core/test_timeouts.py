from datetime import timedelta

import asyncpg
import time_machine

from order_core import timeouts
from order_core.apply import apply
from orderloop.clock import SystemClock
from orderloop.events import ParcelStatus
from orderloop.ids import new_order_no
from tests.support.databases import Database
from tests.support.orders import NOW, labelled, paid, reserved, tracked


async def test_an_event_that_waits_in_vain_becomes_an_anomaly_and_still_counts_later(
    conn: asyncpg.Connection, pool: asyncpg.Pool
) -> None:
    order_no = await reserved(conn)
    async with conn.transaction():
        await apply(conn, [labelled(order_no)], now=NOW)

    assert await timeouts.give_up_waiting(pool, longest=timedelta(minutes=15)) == 0
    assert await timeouts.give_up_waiting(pool, longest=timedelta(0)) == 1

    assert await conn.fetchval("select kind from anomaly") == "predecessor_missing"
    assert await conn.fetchval("select outcome from inbox where event_id like '%waybill%'") == "parked"
    async with conn.transaction():
        await apply(conn, [paid(order_no)], now=NOW)
        await apply(conn, [labelled(order_no)], now=NOW)  # told again, by the desk or the broker
    assert await conn.fetchval("select status from orders") == "shipped"
    assert await conn.fetchval("select resolved_at is not null from anomaly") is True


async def test_what_an_event_leaves_for_a_person_stays_though_its_own_anomaly_ends(
    conn: asyncpg.Connection, pool: asyncpg.Pool
) -> None:
    """It waited in vain, was parked, and came again: that it is applied mends that, and not what it tells."""
    order_no = await reserved(conn)
    waiting = [labelled(order_no), tracked(order_no, ParcelStatus.RETURNED)]
    async with conn.transaction():
        await apply(conn, waiting, now=NOW)
    await timeouts.give_up_waiting(pool, longest=timedelta(0))
    for _ in range(2):
        async with conn.transaction():
            await apply(conn, [paid(order_no), *waiting], now=NOW)

    rows = await conn.fetch("select kind, seen, resolved_at is not null from anomaly order by kind")
    assert [tuple(row) for row in rows] == [
        ("delivery_incomplete", 1, False),
        ("predecessor_missing", 1, True),
        ("predecessor_missing", 1, True),
    ]


async def test_the_months_to_come_have_their_partitions(order_core: Database, pool: asyncpg.Pool) -> None:
    with time_machine.travel("2031-12-31T23:59:59Z", tick=False):
        clock = SystemClock()
        await timeouts.prepare_months(pool, clock)
        await timeouts.prepare_months(pool, clock)
        order_no = new_order_no(clock.now())

    async with pool.acquire() as conn, conn.transaction():
        await apply(conn, [paid(order_no)], now=NOW)
    assert await pool.fetchval("select outcome from inbox where order_no = $1", order_no) == "parked"
