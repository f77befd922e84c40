"""Invariants of order-core's own books: inbox, log, orders, money."""

from collections.abc import AsyncIterator, Sequence

import asyncpg

from order_core.states import TRANSITIONS, Event, Move, MoveBack, Record, Status
from orderloop.topics import SETTLEMENT_RESULT

from .evidence import Evidence
from .registry import invariant

RESERVED = "reserved"  # what version 1 is logged as; it comes from nowhere, so the table has no row for it
_EVENTS = {event.value: event for event in Event}
_SHIPPED = (Status.SHIPPING, Status.SHIPPED, Status.DELIVERED, Status.PENDING_SETTLEMENT, Status.COMPLETED)
_REFUNDABLE = [status for status, row in TRANSITIONS.items() if Event.REFUND_REQUESTED in row]


@invariant("I1", "what the inbox calls applied stands in the log, once", "order_core")
async def applied_is_logged(evidence: Evidence) -> AsyncIterator[str]:
    async for row in evidence.rows("order_core", "claims_unlike_the_log"):
        yield (
            f"order {row['order_no']}: event {row['event_id']} is applied {row['claimed']} times in the inbox "
            f"and stands {row['logged']} times in the log"
        )


@invariant("I2", "an order's versions have no gap, and every step is in the transition table", "order_core")
async def history_is_whole(evidence: Evidence) -> AsyncIterator[str]:
    async for row in _broken_steps(evidence):
        step = f"order {row['order_no']}: version {row['version']} ({row['before']} → {row['after']})"
        if row["gap"]:
            yield f"{step} is row {row['nth']} of its log"
        if row["torn"]:
            yield f"{step} does not begin where the log was: {row['previous']}"
        if row["illegal"]:
            yield f"{step} cannot be done by {row['event']}"


def _broken_steps(evidence: Evidence) -> AsyncIterator[asyncpg.Record]:
    befores, events, afters = zip(*legal_steps(), strict=True)
    return evidence.rows("order_core", "broken_steps", befores=befores, events=events, afters=afters)


def legal_steps() -> list[tuple[str, str, str]]:
    """Every (from, event, to) that the table allows; '' is where version 1 comes from."""
    steps: list[tuple[str, str, str]] = [("", RESERVED, Status.PENDING)]
    for status, row in TRANSITIONS.items():
        for event, verdict in row.items():
            match verdict:
                case Move(to=to):
                    steps.append((status, event, to))
                case Record():
                    steps.append((status, event, status))
                case MoveBack():  # whether it was this order's own status before the refund, the replay knows (I3)
                    steps += [(status, event, before) for before in _REFUNDABLE]
                case _:  # what waits is not logged
                    pass
    return steps


@invariant("I3", "an order is where its log ends, and where replaying the log leads", "order_core")
async def orders_follow_their_log(evidence: Evidence) -> AsyncIterator[str]:
    astray: dict[str, str] = {}
    async for row in evidence.rows("order_core", "histories"):
        order = f"order {row['order_no']}"
        if row["status"] is None:
            yield f"{order}: there is a log up to version {row['last_version']}, and no order"
        elif row["last_version"] is None:
            yield f"{order}: it is {row['status']} at version {row['version']}, and has no log"
        elif (row["status"], row["version"]) != (row["last_status"], row["last_version"]):
            yield (
                f"{order}: it is {row['status']} at version {row['version']}, its log ends at version "
                f"{row['last_version']} with {row['last_status']}"
            )
        elif difference := replay(row["events"], row["statuses"]):
            astray[row["order_no"]] = difference
    if astray:
        # one order is named once: what the table does not know, and what does not hang together, is I2's
        broken = {row["order_no"] async for row in _broken_steps(evidence)}
        for order_no, difference in astray.items():
            if order_no not in broken:
                yield f"order {order_no}: {difference}"


def replay(events: Sequence[str], statuses: Sequence[str]) -> str | None:
    """The first step whose logged status is not where the table leads an order to which this has happened."""
    status, before_refund = "", Status.PENDING
    for version, (event, logged) in enumerate(zip(events, statuses, strict=True), start=1):
        if version == 1:
            to = Status.PENDING if event == RESERVED else None
        else:
            to = _lead(Status(status), event, before_refund)
        if to != logged:
            return f"version {version} led by {event} to {logged}, replaying the log leads to {to or 'nothing'}"
        if to is Status.REFUNDING and status != to:
            before_refund = Status(status)
        status = to
    return None


def _lead(status: Status, event: str, before_refund: Status) -> Status | None:
    match TRANSITIONS[status].get(_EVENTS[event]) if event in _EVENTS else None:
        case Move(to=to):
            return to
        case MoveBack():
            return before_refund
        case Record():
            return status
        case _:
            return None


@invariant(
    "I4",
    "nothing is shipped or completed unpaid, nothing is completed unsettled",
    "order_core",
    uses=("settlement", "wms"),
)
async def nothing_leaves_unpaid(evidence: Evidence) -> AsyncIterator[str]:
    async for row in evidence.rows("order_core", "unpaid_orders", statuses=_SHIPPED):
        paid = "no payment" if row["paid_fen"] is None else f"a payment of {row['paid_fen']} {row['paid_currency']} fen"
        wanted = f"{row['amount_fen']} {row['currency']} fen"
        yield f"order {row['order_no']}: it became {row['status']} for {wanted}, and {paid} is applied"
    active = sorted(evidence.before.get("wms", {}))  # read before: what the warehouse has was paid by then
    fine = {row["order_no"] async for row in evidence.rows("order_core", "properly_paid", order_nos=active)}
    for order_no in active:
        if order_no not in fine:
            yield f"order {order_no}: the warehouse ships it, and no payment of its amount is applied"
    successes = {
        (row["order_no"], row["instruction_id"])
        async for row in evidence.rows("settlement", "settlements")
        if row["status"] == "success"
    }
    async for row in evidence.rows("order_core", "completions"):
        order = f"order {row['order_no']}"
        if (row["event"], row["type"], row["status"]) != (Event.SETTLEMENT_SUCCEEDED, SETTLEMENT_RESULT, "SUCCESS"):
            cause = f"{row['event']} {row['status']} ({row['event_id']})"
            yield f"{order}: version {row['version']} completed it by {cause}"
        elif "settlement" in evidence.snapshots and (row["order_no"], row["instruction_id"]) not in successes:
            yield f"{order}: it is completed, its settlement {row['instruction_id']} is no success"


@invariant(
    "I14",
    "a transaction pays one order, and no more is refunded than was applied",
    "order_core",
    uses=("payment_callback",),
)
async def money_is_counted_once(evidence: Evidence) -> AsyncIterator[str]:
    async for row in evidence.rows("order_core", "transactions_applied_twice"):
        orders = ", ".join(row["order_nos"])
        yield f"orders {orders}: {row['channel']} transaction {row['transaction_id']} is applied to each"
    async for row in evidence.rows("order_core", "claims_unlike_payments"):
        state = "applied or going back, and not claimed" if row["used"] else "claimed, and neither applied nor refunded"
        yield f"order {row['order_no']}: {row['channel']} transaction {row['transaction_id']} is {state}"
    refunds = {
        (row["order_no"], row["channel"], row["transaction_id"]): row["refunded_fen"]
        async for row in evidence.rows("payment_callback", "refunds")
    }
    order_nos, channels, transaction_ids = zip(*refunds, strict=True) if refunds else ((), (), ())
    asked = {"order_nos": order_nos, "channels": channels, "transaction_ids": transaction_ids}
    async for row in evidence.rows("order_core", "applied_amounts", **asked):
        refunded = refunds[row["order_no"], row["channel"], row["transaction_id"]]
        if row["amount_fen"] < refunded:
            yield (
                f"order {row['order_no']}: {row['amount_fen']} fen of transaction {row['transaction_id']} are applied, "
                f"{refunded} fen refunded"
            )
