"""The one write path: everything that changes an order goes through here, a batch at a time."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from msgspec.structs import replace

from orderloop import inbox
from orderloop.events import (
    CloseResult,
    Event,
    ParcelTracked,
    PaymentNotified,
    PickupDetected,
    RefundNotified,
    SettlementResult,
    WaybillCreated,
)
from orderloop.failpoints import failpoint
from orderloop.inbox import EventKey
from orderloop.postgres import Connection

from . import anomalies, parts, store, timers
from .decide import decide
from .money import Transaction
from .orders import (
    AskRefund,
    Change,
    Close,
    ConfirmReceipt,
    GiveUpRefund,
    Incoming,
    Order,
    Parked,
    Refused,
    Resettle,
    Retrack,
    Revive,
    Waiting,
)
from .timers import PATIENCE, Patience

# Which parts of an order a decision about these needs. What is not needed is not read: this is the hot path. Of a
# payment it is enough to know who holds its transaction.
_ABOUT_PARCELS = frozenset[type]({WaybillCreated, PickupDetected, ParcelTracked, RefundNotified, Retrack})
_ABOUT_REFUNDS = frozenset[type](
    {RefundNotified, SettlementResult, ConfirmReceipt, AskRefund, GiveUpRefund, Revive, Resettle}
)
_ABOUT_PAYMENTS = _ABOUT_REFUNDS | {Close}
_ABOUT_SETTLING = frozenset[type]({SettlementResult, ConfirmReceipt, AskRefund, Resettle})
_ABOUT_CLOSING = frozenset[type]({Close, CloseResult})


class CommandRefused(Exception):
    """The order forbids the command. Its caller is there to be told, so nothing is kept or parked."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(slots=True)
class Outcomes:
    """What became of a batch. An event that was applied before is in none of these."""

    changes: list[Change] = field(default_factory=list[Change])
    waiting: dict[EventKey, Waiting] = field(default_factory=dict[EventKey, Waiting])
    parked: dict[EventKey, Parked] = field(default_factory=dict[EventKey, Parked])


async def apply(
    conn: Connection, events: Sequence[Incoming], *, now: datetime, patience: Patience = PATIENCE
) -> Outcomes:
    """Apply events in the order given; what has been applied once is never applied again.

    Runs inside the caller's transaction, which is the batch: either all of it happens or nothing.
    Raises CommandRefused, or TransactionTaken and asyncpg errors: then the batch may be tried again as it is.
    """
    events, reused, body_hashes = await _told_apart(conn, events)
    await anomalies.raise_(conn, reused)
    unapplied = await store.claim(conn, {event.key for event in events}, body_hashes)
    failpoint("order-core.after_claim")
    fresh = [event for event in events if event.key in unapplied]
    if not fresh:
        return Outcomes()
    orders = await store.lock_orders(conn, {event.order_no for event in fresh})
    failpoint("order-core.after_lock")
    kept = await parts.waiting(conn, orders)
    batch = _Batch(
        orders=await with_parts(conn, orders, [*fresh, *kept]),
        taken=await store.taken(conn, _transactions(fresh)),
        unapplied=unapplied | {event.key for event in kept},
        kept=kept,
    )
    for event in fresh:
        batch.settle(event)
    await _record(conn, batch, now=now, patience=patience)
    return batch.outcomes


async def _told_apart(
    conn: Connection, events: Sequence[Incoming]
) -> tuple[Sequence[Incoming], list[Parked], Mapping[EventKey, bytes]]:
    """The events; those of them that came under an id which a foreign producer had used for something else; and what
    tells the bodies of its others apart."""
    foreign = {event.key for event in events if event.is_foreign}
    if not foreign:
        return events, [], {}
    known = await store.body_hashes(conn, foreign)
    told: list[Incoming] = []
    reused: dict[EventKey, Parked] = {}  # by what is told apart: one may come twice in a batch
    for event in events:
        mine = _body_hash(event)
        if mine is None or known.setdefault(event.key, mine) == mine:
            told.append(event)
        else:
            apart = replace(event, event_id=f"{event.event_id}#{mine.hex()}")
            reused[apart.key] = Parked(apart, "id_reused")
    return told, [*reused.values()], known


def _body_hash(event: Incoming) -> bytes | None:
    """8 bytes: enough to see that a producer counts from 1 again, and little in a table that grows without end."""
    if not event.is_foreign or not isinstance(event.body, Event):
        return None
    return hashlib.sha256(event.body.encode()).digest()[:8]


class _Batch:
    """The decisions of one batch, in memory: each sees the orders as the ones before it left them."""

    def __init__(
        self,
        *,
        orders: Mapping[str, Order],
        taken: Mapping[Transaction, str],
        unapplied: set[EventKey],
        kept: Iterable[Incoming],
    ) -> None:
        self.orders = dict(orders)
        self.taken = dict(taken)
        self.outcomes = Outcomes()
        self.followed: list[EventKey] = []  # brought about in this batch, so claimed by nobody yet
        self.kept = {event.key for event in kept}  # waited before this batch began
        self._unapplied = unapplied
        self._queue: dict[str, dict[EventKey, Incoming]] = {}
        for event in kept:
            self._queue.setdefault(event.order_no, {})[event.key] = event

    @property
    def mended(self) -> set[EventKey]:
        """What waited before this batch began, and waits no longer."""
        return self.kept - self._unapplied

    def settle(self, event: Incoming) -> None:
        """Decide one event, and after a change everything that follows from it or waits for the same order."""
        change = self._decide(event)
        if change is not None and (change.follow or self._queue):
            self._go_on(change)

    def _go_on(self, change: Change | None) -> None:
        """After each change what follows from it, and then what waits. A loop: how much waits is not ours to limit."""
        following: list[Incoming] = []
        waiting: list[Incoming] = []
        while True:
            if change is not None:
                following += reversed(change.follow)
                waiting = [*reversed(self._queue.get(change.after.order_no, {}).values())]
            if not (following or waiting):
                return
            change = self._decide((following or waiting).pop())

    def _decide(self, event: Incoming) -> Change | None:
        key = event.key
        if key not in self._unapplied:
            return None
        outcome = decide(self.orders.get(event.order_no), event, taken=self.taken)
        self._forget(key)
        match outcome:
            case Change():
                self._unapplied.remove(key)
                self._apply(outcome)
                return outcome
            case Refused():
                raise CommandRefused(outcome.reason)
            case Waiting():
                self._queue.setdefault(event.order_no, {})[key] = event
                self.outcomes.waiting[key] = outcome
            case Parked():
                self.outcomes.parked[key] = outcome
                if outcome.after is not None:
                    self.orders[event.order_no] = outcome.after
        return None

    def _apply(self, change: Change) -> None:
        order_no, body = change.after.order_no, change.cause.body
        self.outcomes.changes.append(change)
        self.orders[order_no] = change.after
        if isinstance(body, PaymentNotified):
            self.taken[body.channel, body.transaction_id] = order_no
        for event in change.follow:
            self._unapplied.add(event.key)
            self.followed.append(event.key)

    def _forget(self, key: EventKey) -> None:
        """An earlier copy of the event, in this batch or a former one, is decided anew."""
        for copies in (self._queue.get(key[0]), self.outcomes.waiting, self.outcomes.parked):
            if copies:
                copies.pop(key, None)


async def with_parts(conn: Connection, orders: Mapping[str, Order], events: Sequence[Incoming]) -> Mapping[str, Order]:
    """The orders with their parcels, payments and so on, where one of the events asks for them."""

    concerned: defaultdict[type, set[str]] = defaultdict(set)
    for event in events:
        concerned[type(event.body)].add(event.order_no)

    def about(bodies: frozenset[type]) -> set[str]:
        return {no for body in bodies & concerned.keys() for no in concerned[body] if no in orders}

    found: dict[str, dict[str, object]] = {
        "parcels": {**await parts.parcels(conn, about(_ABOUT_PARCELS))},
        "payments": {**await store.payments(conn, about(_ABOUT_PAYMENTS))},
        "refunds": {**await store.refunds(conn, about(_ABOUT_REFUNDS))},
        "instructions": {**await parts.instructions(conn, about(_ABOUT_SETTLING))},
        "closing": {**await parts.closings(conn, about(_ABOUT_CLOSING))},
    }
    given: defaultdict[str, dict[str, object]] = defaultdict(dict)
    for name, by_order in found.items():
        for order_no, part in by_order.items():
            given[order_no][name] = part
    return {**orders, **{order_no: replace(orders[order_no], **parts) for order_no, parts in given.items()}}


def _transactions(events: Iterable[Incoming]) -> set[Transaction]:
    found: set[Transaction] = set()
    for event in events:
        match event.body:
            case PaymentNotified() as body:
                found.add((body.channel, body.transaction_id))
            case Revive(payment=body):
                found.add((body.channel, body.transaction_id))
            case AskRefund(transaction=(channel, transaction_id)):
                found.add((channel, transaction_id))
            case _:
                pass
    return found


async def _record(conn: Connection, batch: _Batch, *, now: datetime, patience: Patience) -> None:
    """Write down everything the batch decided."""
    outcomes = batch.outcomes
    if batch.followed and await inbox.claim(conn, batch.followed) != set(batch.followed):
        raise RuntimeError("what follows from an event has happened before the event")
    left = [parked for change in outcomes.changes if (parked := change.left_for_a_person)]
    # First, so that what this batch raises and mends stands as it would after two batches.
    await anomalies.raise_(conn, [*outcomes.parked.values(), *left])
    await store.record(conn, outcomes.changes, now=now)
    await store.record_refunds(conn, outcomes.changes, now=now)
    heard = [batch.orders[order_no] for (order_no, _), parked in outcomes.parked.items() if parked.after is not None]
    await parts.record(conn, outcomes.changes, heard, now=now)
    await parts.set_timers(conn, timers.started(outcomes.changes, now=now, patience=patience))
    await store.note_unapplied_payments(conn, outcomes.parked.values(), known=batch.orders)
    undecided: dict[EventKey, str] = {
        **dict.fromkeys(outcomes.waiting, "waiting"),
        **dict.fromkeys(outcomes.parked, "parked"),
        **dict.fromkeys(batch.mended, "applied"),
    }
    await store.remember(conn, undecided)
    await parts.stop_waiting(conn, batch.mended | (batch.kept & outcomes.parked.keys()))
    await parts.wait(conn, [outcome.cause for outcome in outcomes.waiting.values()])
    await anomalies.close_late_evidence(conn, outcomes.parked.values(), now=now)
    await store.publish(conn, outcomes.changes, now=now)
