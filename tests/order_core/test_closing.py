"""An unpaid order closes by the channels' word alone, and a payment always wins."""

import asyncio
from datetime import datetime, timedelta

import asyncpg
import pytest

from order_core import timeouts
from order_core.apply import CommandRefused, Outcomes, apply
from order_core.orders import GiveUpRefund, Incoming
from order_core.timers import PATIENCE
from orderloop.clock import SystemClock
from orderloop.events import AnomalyRaised, CloseOutcome, CloseRequested, ParcelStatus, SettlementRequested
from tests.support.orders import (
    AMOUNT,
    NOW,
    close_asked,
    close_told,
    confirmed,
    labelled,
    paid,
    refund_asked,
    refund_told,
    reserved,
    sent,
    tracked,
)


class At:
    """A clock that stands where the test puts it."""

    def __init__(self, **ahead: float) -> None:
        self._now = NOW + timedelta(**ahead)

    def now(self) -> datetime:
        return self._now


async def applied(conn: asyncpg.Connection, *events: Incoming) -> Outcomes:
    async with conn.transaction():
        return await apply(conn, events, now=NOW)


async def status(conn: asyncpg.Connection, order_no: str) -> str:
    return await conn.fetchval("select status from orders where order_no = $1", order_no)


async def asked(conn: asyncpg.Connection) -> list[str]:
    rows = await conn.fetch("select event_id from outbox where topic = $1 order by id", CloseRequested.TOPIC)
    return [row["event_id"].partition(":")[2] for row in rows]


async def test_an_order_closes_only_after_the_channels_were_asked(conn: asyncpg.Connection) -> None:
    order_no = await reserved(conn)

    await applied(conn, close_asked(order_no))
    assert await status(conn, order_no) == "pending"
    assert await asked(conn) == ["close:1"]
    await applied(conn, close_told(order_no))

    assert await status(conn, order_no) == "closed"


async def test_a_payment_that_arrives_while_closing_wins(conn: asyncpg.Connection) -> None:
    order_no = await reserved(conn)
    await applied(conn, close_asked(order_no))

    await applied(conn, paid(order_no), close_told(order_no))

    assert await status(conn, order_no) == "paid"
    assert await conn.fetchval("select count(*) from anomaly") == 0


async def test_a_channel_that_says_paid_keeps_the_order_open_and_is_not_taken_for_the_payment(
    conn: asyncpg.Connection, pool: asyncpg.Pool
) -> None:
    order_no = await reserved(conn)
    await timeouts.fire(pool, At(minutes=31), PATIENCE)

    await applied(conn, close_told(order_no, CloseOutcome.PAID))
    await timeouts.fire(pool, At(days=1), PATIENCE)

    assert await status(conn, order_no) == "pending"
    assert await asked(conn) == ["close:1"]  # and is not asked for ever
    assert await conn.fetchval("select count(*) from anomaly") == 0  # who asked has raised its own


async def test_an_unpaid_order_expires_and_is_asked_about_ever_more_rarely(
    conn: asyncpg.Connection, pool: asyncpg.Pool
) -> None:
    order_no = await reserved(conn)

    await timeouts.fire(pool, At(minutes=29), PATIENCE)
    assert await asked(conn) == []
    await timeouts.fire(pool, At(minutes=30), PATIENCE)
    await applied(conn, close_told(order_no, CloseOutcome.UNKNOWN))
    await timeouts.fire(pool, At(minutes=30.5), PATIENCE)
    assert await asked(conn) == ["close:1"]
    await timeouts.fire(pool, At(minutes=31), PATIENCE)
    await timeouts.fire(pool, At(minutes=32), PATIENCE)
    assert await asked(conn) == ["close:1", "close:2"]
    await timeouts.fire(pool, At(minutes=33), PATIENCE)
    await applied(conn, close_told(order_no, n=3))
    await timeouts.fire(pool, At(days=9), PATIENCE)

    assert await asked(conn) == ["close:1", "close:2", "close:3"]
    assert await status(conn, order_no) == "closed"
    assert await conn.fetchval("select count(*) from timer") == 0


async def test_a_second_wish_to_close_is_refused_while_the_first_is_open(conn: asyncpg.Connection) -> None:
    order_no = await reserved(conn)
    await applied(conn, close_asked(order_no))
    another = Incoming(order_no, "close:2", "close", "customer", NOW, close_asked(order_no).body)

    with pytest.raises(CommandRefused) as refusal:
        await applied(conn, another)

    assert refusal.value.reason == "closing-already"


async def test_an_answer_to_a_close_nobody_asked_for_closes_nothing(conn: asyncpg.Connection) -> None:
    order_no = await reserved(conn)

    await applied(conn, close_told(order_no))

    assert await status(conn, order_no) == "pending"
    assert await conn.fetchval("select kind from anomaly") == "close_not_requested"


async def test_an_answer_that_is_read_again_after_the_close_was_asked_for_closes_the_order(
    conn: asyncpg.Connection,
) -> None:
    order_no = await reserved(conn)
    await applied(conn, close_told(order_no))

    await applied(conn, close_asked(order_no))
    await applied(conn, close_told(order_no))

    assert await status(conn, order_no) == "closed"
    assert await conn.fetchval("select resolved_at is not null from anomaly") is True


async def test_an_applied_payment_closes_the_evidence_that_it_was_missing(conn: asyncpg.Connection) -> None:
    order_no = await reserved(conn)

    def missing(n: int) -> Incoming:
        told = {"channel": "wechat", "transaction_id": "4200001"}
        body = AnomalyRaised(order_no=order_no, kind="callback_missing", evidence=told, money_fen=AMOUNT, raised_at=NOW)
        return sent(f"query:{n}", body)

    await applied(conn, missing(1))
    await applied(conn, paid(order_no))
    await applied(conn, missing(2))  # asked before the notice came, read after it

    rows = await conn.fetch("select resolved_at is not null as resolved from anomaly")
    assert [row["resolved"] for row in rows] == [True, True]


async def test_receipt_counts_as_confirmed_days_after_the_later_of_the_couriers_time_and_ours(
    conn: asyncpg.Connection, pool: asyncpg.Pool
) -> None:
    late, early = await reserved(conn, "1"), await reserved(conn, "2")
    await applied(conn, paid(late, "1"), paid(early, "2"), labelled(late, "1"), labelled(early, "2"))

    await applied(conn, tracked(late, waybill_no="1", hours=30), tracked(early, waybill_no="2", hours=-96))
    await timeouts.fire(pool, At(hours=71), PATIENCE)
    assert await status(conn, early) == "delivered"  # the scan came four days late: that is not four days of silence
    await timeouts.fire(pool, At(hours=73), PATIENCE)
    assert [await status(conn, o) for o in (early, late)] == ["pending_settlement", "delivered"]
    await timeouts.fire(pool, At(hours=103), PATIENCE)

    assert await status(conn, late) == "pending_settlement"
    assert await conn.fetchval("select count(*) from outbox where topic = $1", SettlementRequested.TOPIC) == 2


async def test_a_customer_who_confirms_before_the_timer_is_the_only_one_who_does(
    conn: asyncpg.Connection, pool: asyncpg.Pool
) -> None:
    order_no = await reserved(conn)
    await applied(conn, paid(order_no), labelled(order_no), tracked(order_no))
    await applied(conn, confirmed(order_no))

    await timeouts.fire(pool, At(days=9), PATIENCE)

    assert await conn.fetchval("select count(*) from outbox where topic = $1", SettlementRequested.TOPIC) == 1


@pytest.mark.parametrize("end", ["closed by the channel", "given up"])
async def test_receipt_is_confirmed_though_the_time_came_while_all_the_money_was_stuck_in_a_refund(
    conn: asyncpg.Connection, pool: asyncpg.Pool, end: str
) -> None:
    order_no = await reserved(conn)
    await applied(conn, paid(order_no), labelled(order_no), tracked(order_no, hours=0))
    await applied(conn, refund_asked(order_no))
    await applied(conn, refund_told(order_no, 1, "ABNORMAL"))
    await timeouts.fire(pool, At(days=4), PATIENCE)
    assert await status(conn, order_no) == "delivered"

    give_up = Incoming(order_no, "end", "give-up-refund", "ops:li", NOW, GiveUpRefund(f"{order_no}_R1", "paid in cash"))
    await applied(conn, give_up if end == "given up" else refund_told(order_no, 1, "CLOSED"))
    await timeouts.fire(pool, At(days=2), PATIENCE)
    assert await status(conn, order_no) == "delivered"
    await timeouts.fire(pool, At(days=4), PATIENCE)

    assert await status(conn, order_no) == "pending_settlement"


async def test_two_workers_fire_a_timer_once(conn: asyncpg.Connection, pool: asyncpg.Pool) -> None:
    for n in range(30):
        await reserved(conn, str(n))

    await asyncio.gather(*(timeouts.fire(pool, At(minutes=31), PATIENCE) for _ in range(4)))

    assert len(await asked(conn)) == 30


@pytest.mark.parametrize("last", [ParcelStatus.RETURNED, ParcelStatus.EXHAUSTED])
async def test_a_parcel_that_never_arrives_calls_a_person_instead_of_blocking_for_ever(
    conn: asyncpg.Connection, last: ParcelStatus
) -> None:
    order_no = await reserved(conn)
    await applied(conn, paid(order_no))
    await applied(conn, labelled(order_no, "1", parcel_count=2), labelled(order_no, "2", parcel_no=2, parcel_count=2))

    await applied(conn, tracked(order_no, waybill_no="1"))
    await applied(conn, tracked(order_no, last, waybill_no="2"))

    assert await status(conn, order_no) == "shipped"
    anomaly = await conn.fetchrow("select kind, money_fen from anomaly")
    assert tuple(anomaly) == ("delivery_incomplete", AMOUNT)


async def test_the_real_clock_finds_nothing_due(pool: asyncpg.Pool, conn: asyncpg.Connection) -> None:
    await reserved(conn)

    assert await timeouts.fire(pool, SystemClock(), PATIENCE) == 0
