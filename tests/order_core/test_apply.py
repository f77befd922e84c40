"""What the write path promises, on a real PostgreSQL."""

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from itertools import groupby, pairwise

import asyncpg
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from order_core import store
from order_core.apply import CommandRefused, Outcomes, apply
from order_core.orders import ConfirmReceipt, Incoming, Ship
from order_core.store import TransactionTaken
from orderloop.errors import is_transient
from orderloop.events import (
    AnomalyRaised,
    OrderChanged,
    ParcelStatus,
    SettlementRequested,
    SettlementStatus,
    ShipmentRequested,
)
from orderloop.ids import new_order_no
from orderloop.inbox import EventKey
from tests.support.databases import Database
from tests.support.orders import (
    AMOUNT,
    NOW,
    confirmed,
    labelled,
    missing,
    paid,
    picked_up,
    reserved,
    sent,
    settled,
    shipped,
    tracked,
)

NOBODY = f"{NOW:%y%m%d%H%M%S}ZZZZZZZZZZZZ"


async def applied(conn: asyncpg.Connection, *events: Incoming) -> Outcomes:
    async with conn.transaction():
        return await apply(conn, events, now=NOW)


async def status(conn: asyncpg.Connection, order_no: str) -> str:
    return await conn.fetchval("select status from orders where order_no = $1", order_no)


async def published(conn: asyncpg.Connection, topic: str) -> list[bytes]:
    return [row["body"] for row in await conn.fetch("select body from outbox where topic = $1 order by id", topic)]


async def test_an_order_goes_its_whole_way(conn: asyncpg.Connection) -> None:
    order_no = await reserved(conn)

    await applied(conn, paid(order_no))
    await applied(conn, shipped(order_no))
    await applied(conn, labelled(order_no), picked_up(order_no), tracked(order_no))
    await applied(conn, confirmed(order_no))
    await applied(conn, settled(order_no))

    log = await conn.fetch('select version, "from", "to" from order_log order by version')
    assert [(row["version"], row["from"], row["to"]) for row in log] == [
        (1, None, "pending"),
        (2, "pending", "paid"),
        (3, "paid", "shipping"),
        (4, "shipping", "shipped"),
        (5, "shipped", "shipped"),
        (6, "shipped", "delivered"),
        (7, "delivered", "pending_settlement"),
        (8, "pending_settlement", "completed"),
    ]
    changes = [OrderChanged.decode(body) for body in await published(conn, OrderChanged.TOPIC)]
    assert [(c.version, c.from_, c.to) for c in changes] == [(r["version"], r["from"], r["to"]) for r in log]
    assert changes[1].channel == "wechat"
    assert len(await published(conn, ShipmentRequested.TOPIC)) == 1
    [request] = await published(conn, SettlementRequested.TOPIC)
    assert SettlementRequested.decode(request).amount_fen == AMOUNT
    assert await conn.fetchval("select completed_at is not null from orders")


async def test_the_same_payment_twice_in_a_batch_and_again_later_moves_the_order_once(conn: asyncpg.Connection) -> None:
    order_no = await reserved(conn)

    first = await applied(conn, paid(order_no), paid(order_no))
    second = await applied(conn, paid(order_no))

    assert len(first.changes) == 1
    assert second == Outcomes()
    assert await conn.fetchval("select count(*) from order_log where event = 'payment_succeeded'") == 1
    assert await conn.fetchval("select count(*) from payment") == 1
    assert not first.parked


@pytest.mark.parametrize(
    ("changes", "kind"),
    [({"amount_fen": 1}, "amount_mismatch"), ({"currency": "USD"}, "currency_mismatch")],
)
async def test_a_payment_that_does_not_fit_is_parked_and_hurts_nobody_else(
    conn: asyncpg.Connection, changes: dict[str, object], kind: str
) -> None:
    odd, even = await reserved(conn, "1"), await reserved(conn, "2")

    await applied(conn, paid(odd, "1", **changes), paid(even, "2"))

    anomaly = await conn.fetchrow("select * from anomaly")
    assert (anomaly["order_no"], anomaly["kind"]) == (odd, kind)
    assert anomaly["money_fen"] == changes.get("amount_fen", AMOUNT)
    assert (await status(conn, odd), await status(conn, even)) == ("pending", "paid")
    assert await conn.fetchval("select applied from payment where order_no = $1", odd) is False


async def test_a_payment_for_an_unknown_order_stands_at_the_desk(conn: asyncpg.Connection) -> None:
    await applied(conn, paid(NOBODY))

    anomaly = await conn.fetchrow("select * from anomaly")
    assert (anomaly["kind"], anomaly["money_fen"]) == ("unknown_order", AMOUNT)
    assert orjson.loads(anomaly["evidence"])["transaction_id"] == "4200001"
    assert await conn.fetchval("select count(*) from payment") == 0  # no foreign key would refuse it


async def test_one_transaction_pays_one_order_ever(conn: asyncpg.Connection) -> None:
    first, second = await reserved(conn, "1"), await reserved(conn, "2")

    await applied(conn, paid(first), paid(second))
    third = await reserved(conn, "3")
    await applied(conn, paid(third))

    assert [await status(conn, o) for o in (first, second, third)] == ["paid", "pending", "pending"]
    kinds = await conn.fetch("select kind from anomaly")
    assert [row["kind"] for row in kinds] == ["transaction_reused", "transaction_reused"]


async def test_of_two_workers_with_one_transaction_the_slower_decides_anew_and_parks_it(
    conn: asyncpg.Connection, pool: asyncpg.Pool
) -> None:
    first, second = await reserved(conn, "1"), await reserved(conn, "2")
    async with pool.acquire() as other:
        faster = other.transaction()
        await faster.start()
        await apply(other, [paid(first)], now=NOW)
        slower = asyncio.create_task(applied(conn, paid(second)))
        async with asyncio.timeout(10):
            while not await pool.fetchval("select exists (select from pg_locks where not granted)"):
                assert not slower.done()
        await faster.commit()

    with pytest.raises(TransactionTaken) as lost:
        await slower
    assert is_transient(lost.value)  # which the consumer takes again as it is
    outcomes = await applied(conn, paid(second))

    assert [parked.kind for parked in outcomes.parked.values()] == ["transaction_reused"]
    assert await status(conn, second) == "pending"


async def test_a_second_payment_is_superfluous_and_never_moves_a_good_order(conn: asyncpg.Connection) -> None:
    order_no = await reserved(conn)

    await applied(conn, paid(order_no, "1"), shipped(order_no), labelled(order_no), paid(order_no, "2"))

    assert await status(conn, order_no) == "shipped"
    assert await conn.fetchval("select kind from anomaly") == "paid_twice"
    assert await conn.fetchval("select count(*) from payment where applied") == 1


async def test_a_label_before_the_payment_waits_and_moves_with_it(conn: asyncpg.Connection) -> None:
    order_no = await reserved(conn)

    early = await applied(conn, tracked(order_no), labelled(order_no))
    assert len(early.waiting) == 2
    assert await status(conn, order_no) == "pending"
    await applied(conn, paid(order_no))

    assert await status(conn, order_no) == "delivered"
    assert await conn.fetchval("select count(*) from waiting") == 0
    outcomes = await conn.fetch("select outcome from inbox where outcome <> 'applied'")
    assert outcomes == []


async def test_a_waiting_event_that_comes_again_is_still_one_event(conn: asyncpg.Connection) -> None:
    order_no = await reserved(conn)

    await applied(conn, labelled(order_no), labelled(order_no))
    await applied(conn, labelled(order_no))
    await applied(conn, labelled(order_no), paid(order_no))

    assert await status(conn, order_no) == "shipped"
    assert await conn.fetchval("select count(*) from order_log where event = 'waybill_created'") == 1


async def test_however_many_events_wait_their_predecessor_brings_them_all_about(conn: asyncpg.Connection) -> None:
    order_no = await reserved(conn)
    parcels = 900  # with the two calls that each took, more than Python nests
    await applied(conn, *(labelled(order_no, str(n), parcel_no=n, parcel_count=parcels) for n in range(1, parcels + 1)))

    await applied(conn, paid(order_no))

    assert await status(conn, order_no) == "shipped"
    assert await conn.fetchval("select count(*) from parcel") == parcels


async def test_a_scan_of_an_unknown_parcel_waits_for_its_label(conn: asyncpg.Connection) -> None:
    order_no = await reserved(conn)
    await applied(conn, paid(order_no), labelled(order_no, "1", parcel_count=2))

    await applied(conn, tracked(order_no, waybill_no="1"), tracked(order_no, waybill_no="2"))
    assert await status(conn, order_no) == "shipped"
    await applied(conn, labelled(order_no, "2", parcel_no=2, parcel_count=2))

    assert await status(conn, order_no) == "delivered"


async def test_a_parked_payment_is_decided_anew_when_it_comes_again(conn: asyncpg.Connection) -> None:
    order_no = await reserved(conn)
    await applied(conn, paid(order_no, amount_fen=1))

    again = await applied(conn, paid(order_no))

    assert len(again.changes) == 1
    assert await conn.fetchval("select resolved_at is not null from anomaly") is True
    assert await conn.fetchval("select applied from payment") is True
    assert await applied(conn, paid(order_no)) == Outcomes()


async def test_a_failed_settlement_keeps_the_order_and_calls_a_person(conn: asyncpg.Connection) -> None:
    order_no = await reserved(conn)
    await applied(conn, paid(order_no), shipped(order_no), labelled(order_no), confirmed(order_no))

    await applied(conn, settled(order_no, SettlementStatus.PROCESSING), settled(order_no, SettlementStatus.FAILED))
    assert await status(conn, order_no) == "pending_settlement"
    assert await conn.fetchval("select kind from anomaly where resolved_at is null") == "settlement_failed"
    await applied(conn, settled(order_no, attempt=2))

    assert await status(conn, order_no) == "completed"


@pytest.mark.parametrize("attempt", [1, 2])
async def test_money_in_the_bank_stays_there_whatever_attempt_is_still_under_way(
    conn: asyncpg.Connection, attempt: int
) -> None:
    """The bank pays an instruction once. A completed order that waits for the bank would hold its refunds for ever."""
    order_no = await reserved(conn)
    await applied(conn, paid(order_no), labelled(order_no), confirmed(order_no), settled(order_no))

    await applied(conn, settled(order_no, SettlementStatus.PROCESSING, attempt=attempt))

    assert await conn.fetchval("select state from instruction") == "success"


async def test_a_settlement_that_nobody_asked_for_completes_nothing(conn: asyncpg.Connection) -> None:
    order_no = await reserved(conn)

    await applied(conn, paid(order_no), settled(order_no))

    assert await status(conn, order_no) == "paid"
    assert await conn.fetchval("select kind from anomaly") == "settlement_not_requested"


async def test_another_services_anomaly_stands_at_the_desk_and_changes_nothing(conn: asyncpg.Connection) -> None:
    order_no = await reserved(conn)
    raised = AnomalyRaised(
        order_no=order_no, kind="callback_missing", evidence={"asked": "x"}, money_fen=AMOUNT, raised_at=NOW
    )

    await applied(conn, sent("query:1", raised))
    await applied(conn, sent("query:1", raised))

    anomaly = await conn.fetchrow("select * from anomaly")
    assert (anomaly["kind"], anomaly["seen"]) == ("callback_missing", 2)
    assert await conn.fetchval("select version from orders") == 1


@pytest.mark.parametrize("in_one_batch", [True, False])
@pytest.mark.parametrize("evidence_first", [True, False])
async def test_evidence_of_a_missing_notice_is_put_away_by_that_payment_alone(
    conn: asyncpg.Connection, evidence_first: bool, in_one_batch: bool
) -> None:
    """The customer paid by both channels: the notice of one says nothing of the other's."""
    order_no = await reserved(conn)
    events = [paid(order_no, "W1"), missing(order_no, "W1"), missing(order_no, "A2", channel="alipay")]
    if evidence_first:
        events.reverse()

    for batch in [events] if in_one_batch else [[event] for event in events]:
        await applied(conn, *batch)

    rows = await conn.fetch("select evidence->>'transaction_id' from anomaly where resolved_at is null")
    assert [row[0] for row in rows] == ["A2"]


@pytest.mark.parametrize("in_one_batch", [True, False])
async def test_a_settlement_that_succeeds_puts_its_failure_away(conn: asyncpg.Connection, in_one_batch: bool) -> None:
    order_no = await reserved(conn)
    await applied(conn, paid(order_no), labelled(order_no), confirmed(order_no))
    told = [settled(order_no, SettlementStatus.FAILED), settled(order_no)]

    for batch in [told] if in_one_batch else [[event] for event in told]:
        await applied(conn, *batch)

    assert await conn.fetchval("select resolved_at is not null from anomaly where kind = 'settlement_failed'") is True


async def test_a_command_that_the_status_forbids_is_refused_and_not_parked(conn: asyncpg.Connection) -> None:
    order_no = await reserved(conn)

    with pytest.raises(CommandRefused):
        await applied(conn, shipped(order_no))

    assert await conn.fetchval("select count(*) from anomaly") == 0
    assert await conn.fetchval("select count(*) from shipment") == 0


async def test_scans_after_the_end_are_history_and_nothing_more(conn: asyncpg.Connection) -> None:
    order_no = await reserved(conn)
    await applied(conn, paid(order_no), labelled(order_no), confirmed(order_no), settled(order_no))

    await applied(conn, picked_up(order_no), tracked(order_no, ParcelStatus.IN_TRANSIT), tracked(order_no))

    assert await status(conn, order_no) == "completed"
    assert await conn.fetchval("select count(*) from order_log") == 8
    assert await conn.fetchval("select status from parcel") == "delivered"


async def test_a_batch_that_fails_leaves_no_trace(conn: asyncpg.Connection, order_core: Database) -> None:
    order_no = await reserved(conn)
    owner = await asyncpg.connect(order_core.owner_url)
    await owner.execute("alter table outbox add constraint disk_full check (false) not valid")
    await owner.close()

    with pytest.raises(asyncpg.CheckViolationError):
        await applied(conn, paid(order_no))

    assert await conn.fetchval("select count(*) from inbox") == 1  # the reservation's
    assert await status(conn, order_no) == "pending"


async def test_two_batches_that_share_orders_in_opposite_order_both_finish(
    conn: asyncpg.Connection, pool: asyncpg.Pool
) -> None:
    orders = [await reserved(conn, str(n)) for n in range(40)]

    async def batch(events: Sequence[Incoming]) -> None:
        async with pool.acquire() as own, own.transaction():
            await apply(own, events, now=NOW)

    forward = [paid(order_no, str(n)) for n, order_no in enumerate(orders)]
    await asyncio.gather(*(batch(events) for events in (forward, forward[::-1]) * 4))

    assert await conn.fetchval("select count(*) from orders where status = 'paid' and version = 2") == 40


async def test_claims_that_overlap_in_any_order_never_deadlock(pool: asyncpg.Pool) -> None:
    keys = [(new_order_no(NOW), f"e{n}") for n in range(300)]
    claimed: list[EventKey] = []

    async def worker(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(8):
            some = dict.fromkeys(chance.sample(keys, 200), None)
            async with pool.acquire() as own, own.transaction():
                claimed.extend(await store.claim(own, some))

    await asyncio.gather(*(worker(seed) for seed in range(6)))

    assert len(claimed) == len(set(claimed))


async def test_the_app_role_cannot_rewrite_history(conn: asyncpg.Connection) -> None:
    await reserved(conn)
    for statement in (
        "update order_log set version = 9",
        "delete from order_log",
        "delete from inbox",
        "update inbox set event_id = 'x'",
        "delete from orders",
        "delete from payment",
        "truncate outbox",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await conn.execute(statement)


def _story() -> st.SearchStrategy[list[tuple[str, int]]]:
    kinds = ["paid", "paid_other", "shipped", "labelled", "label_2", "picked_up", "delivered", "confirmed"]
    return st.lists(
        st.tuples(
            st.sampled_from([*kinds, "evidence", "returned", "settled", "settlement_failed", "stray"]),
            st.integers(0, 1),
        ),
        max_size=20,
    )


def _event(kind: str, order_no: str, n: int) -> Incoming:
    match kind:
        case "paid":
            return paid(order_no, f"t{n}")
        case "paid_other":
            return paid(order_no, "shared")
        case "shipped":
            return shipped(order_no)
        case "labelled":
            return labelled(order_no, f"w{n}")
        case "label_2":
            return labelled(order_no, f"v{n}", parcel_no=2, parcel_count=2)
        case "picked_up":
            return picked_up(order_no, f"w{n}")
        case "delivered" | "returned":
            return tracked(order_no, ParcelStatus(kind), f"w{n}")
        case "evidence":
            return missing(order_no, f"t{n}")
        case "confirmed":
            return confirmed(order_no)
        case "settled":
            return settled(order_no)
        case "settlement_failed":
            return settled(order_no, SettlementStatus.FAILED)
        case _:
            return paid(NOBODY, "stray")


_numbers = itertools.count()


@given(story=_story(), cuts=st.lists(st.integers(0, 20), max_size=4))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_how_a_story_is_cut_into_batches_makes_no_difference(
    order_core: Database, story: list[tuple[str, int]], cuts: list[int]
) -> None:
    """A command is always a batch of its own, and a refused one leaves nothing."""

    async def tell(conn: asyncpg.Connection, batch: list[Incoming]) -> None:
        for is_command, part in groupby(batch, key=lambda event: isinstance(event.body, (Ship, ConfirmReceipt))):
            for events in ([event] for event in part) if is_command else [list(part)]:
                with suppress(CommandRefused):
                    await applied(conn, *events)

    async def outcome(sizes: list[int]) -> tuple[object, ...]:
        conn = await asyncpg.connect(order_core.app_url)
        rollback = conn.transaction()
        await rollback.start()  # every telling starts from the same empty tables
        try:
            orders = [await reserved(conn, f"{next(_numbers)}") for _ in range(2)]
            names = {order_no: n for n, order_no in enumerate(orders)}
            events = [_event(kind, orders[n], n) for kind, n in story]
            for start, end in pairwise(sizes):
                await tell(conn, events[start:end])
            log = await conn.fetch('select order_no, version, "from", "to", event from order_log order by 1, 2')
            queries = (
                "select order_no, outcome, count(*) from inbox group by 1, 2",
                "select order_no, kind, count(*) from anomaly where resolved_at is null group by 1, 2",
                "select order_no, count(*) from waiting group by 1",
                "select order_no, status, count(*) from parcel group by 1, 2",
                "select order_no, applied, count(*) from payment group by 1, 2",
            )
            rest = [Counter((names.get(r[0], -1), *r[1:]) for r in await conn.fetch(query)) for query in queries]
            return sorted((names[r[0]], *r[1:]) for r in log), rest
        finally:
            await rollback.rollback()
            await conn.close()

    bounds = sorted({0, len(story), *(min(cut, len(story)) for cut in cuts)})
    one_by_one = list(range(len(story) + 1))
    assert asyncio.run(outcome(bounds)) == asyncio.run(outcome(one_by_one))


async def test_times_are_kept_to_the_microsecond_whatever_their_offset(conn: asyncpg.Connection) -> None:
    order_no = await reserved(conn)
    at = NOW.astimezone(timezone(timedelta(hours=8))) + timedelta(microseconds=123_457)
    told, printed = at + timedelta(microseconds=1), at + timedelta(microseconds=2)
    label = labelled(order_no)

    await applied(
        conn,
        replace(paid(order_no, paid_at=at), occurred_at=told),
        replace(label, body=replace(label.body, created_at=printed)),
    )

    assert await conn.fetchval("select paid_at from payment where order_no = $1", order_no) == at
    log = "select occurred_at from order_log where order_no = $1 and event = 'payment_succeeded'"
    assert await conn.fetchval(log, order_no) == told
    assert await conn.fetchval("select at from parcel where order_no = $1", order_no) == printed


async def test_a_time_that_travels_as_seconds_keeps_its_microsecond(conn: asyncpg.Connection) -> None:
    rng = random.Random(1)
    first, end = datetime(1970, 1, 1, tzinfo=UTC), datetime(2106, 1, 1, tzinfo=UTC)
    microseconds = (end - first) // timedelta(microseconds=1)
    times = [first + timedelta(microseconds=n) for n in (0, microseconds - 1, *rng.sample(range(microseconds), 20_000))]

    sent = [time.timestamp() for time in times]
    assert await conn.fetchval("select array(select to_timestamp(at) from unnest($1::float8[]) at)", sent) == times
