"""The one write path: everything that changes an order goes through here, a batch at a time."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from orderloop import inbox
from orderloop.events import ParcelTracked, PaymentNotified, PickupDetected, WaybillCreated
from orderloop.failpoints import failpoint
from orderloop.inbox import EventKey
from orderloop.postgres import Connection

from . import store
from .orders import Change, ConfirmReceipt, Incoming, Order, Parked, Ship, Transaction, Waiting, decide


class CommandRefused(Exception):
    """The order's status forbids the command. Its caller is there to be told, so nothing is kept or parked."""


@dataclass(slots=True)
class Outcomes:
    """What became of a batch. An event that was applied before is in none of these."""

    changes: list[Change] = field(default_factory=list[Change])
    waiting: dict[EventKey, Waiting] = field(default_factory=dict[EventKey, Waiting])
    parked: dict[EventKey, Parked] = field(default_factory=dict[EventKey, Parked])


async def apply(conn: Connection, events: Sequence[Incoming], *, now: datetime) -> Outcomes:
    """Apply events in the order given; what has been applied once is never applied again.

    Runs inside the caller's transaction, which is the batch: either all of it happens or nothing.
    Raises CommandRefused, or asyncpg errors: then the batch may be tried again as it is.
    """
    unapplied = await inbox.claim(conn, (event.key for event in events))
    failpoint("order-core.after_claim")
    fresh = [event for event in events if event.key in unapplied]
    if not fresh:
        return Outcomes()
    orders = await store.lock_orders(conn, {event.order_no for event in fresh})
    failpoint("order-core.after_lock")
    kept = await store.waiting(conn, orders)
    batch = _Batch(
        orders=await _with_parts(conn, orders, [*fresh, *kept]),
        taken=await store.taken(conn, _transactions(fresh)),
        unapplied=unapplied | {event.key for event in kept},
        kept=kept,
    )
    for event in fresh:
        batch.settle(event)
    await _record(conn, batch, now=now)
    return batch.outcomes


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
        self.kept = {event.key for event in kept}  # waited before this batch began
        self._unapplied = unapplied
        self._queue: defaultdict[str, dict[EventKey, Incoming]] = defaultdict(dict)
        for event in kept:
            self._queue[event.order_no][event.key] = event

    def settle(self, event: Incoming) -> None:
        """Decide one event, and after a change everything that waits for the same order."""
        if event.key not in self._unapplied:
            return
        outcome = decide(self.orders.get(event.order_no), event, taken=self.taken)
        self._forget(event.key)
        match outcome:
            case Change():
                self._apply(outcome)
            case _ if isinstance(event.body, (Ship, ConfirmReceipt)):
                raise CommandRefused
            case Waiting():
                self._queue[event.order_no][event.key] = event
                self.outcomes.waiting[event.key] = outcome
            case Parked():
                self.outcomes.parked[event.key] = outcome

    def _apply(self, change: Change) -> None:
        self.outcomes.changes.append(change)
        self.orders[change.after.order_no] = change.after
        self._unapplied.remove(change.cause.key)
        if isinstance(change.cause.body, PaymentNotified):
            self.taken[change.cause.body.channel, change.cause.body.transaction_id] = change.after.order_no
        for successor in list(self._queue[change.after.order_no].values()):
            self.settle(successor)

    def _forget(self, key: EventKey) -> None:
        """An earlier copy of the event, in this batch or a former one, is decided anew."""
        self._queue[key[0]].pop(key, None)
        self.outcomes.waiting.pop(key, None)
        self.outcomes.parked.pop(key, None)


async def _with_parts(conn: Connection, orders: Mapping[str, Order], events: Sequence[Incoming]) -> Mapping[str, Order]:
    """The orders with their parcels and payments, where an event asks for them."""
    scanned = {e.order_no for e in events if isinstance(e.body, (WaybillCreated, PickupDetected, ParcelTracked))}
    confirmed = {e.order_no for e in events if isinstance(e.body, (ConfirmReceipt, PaymentNotified))}
    parcels = await store.parcels(conn, scanned)
    payments = await store.payments(conn, confirmed)
    return {
        order_no: replace(order, parcels=parcels.get(order_no, {}), payments=payments.get(order_no, ()))
        if order_no in parcels or order_no in payments
        else order
        for order_no, order in orders.items()
    }


def _transactions(events: Iterable[Incoming]) -> set[Transaction]:
    return {(e.body.channel, e.body.transaction_id) for e in events if isinstance(e.body, PaymentNotified)}


async def _record(conn: Connection, batch: _Batch, *, now: datetime) -> None:
    """Write down everything the batch decided."""
    outcomes = batch.outcomes
    await store.record(conn, outcomes.changes, now=now)
    await store.record_parts(conn, outcomes.changes, now=now)
    await store.note_unapplied_payments(conn, outcomes.parked.values(), known=batch.orders)
    applied = {change.cause.key for change in outcomes.changes}
    undecided: dict[EventKey, str] = {
        **dict.fromkeys(outcomes.waiting, "waiting"),
        **dict.fromkeys(outcomes.parked, "parked"),
        **dict.fromkeys(applied & batch.kept, "applied"),
    }
    await store.remember(conn, undecided)
    await store.stop_waiting(conn, batch.kept & (applied | outcomes.parked.keys()))
    await store.wait(conn, [outcome.cause for outcome in outcomes.waiting.values()])
    await store.settle_anomalies(conn, applied, now=now)
    await store.raise_anomalies(
        conn,
        [
            *outcomes.parked.values(),
            *(Parked(c.cause, c.anomaly, c.after.amount_fen) for c in outcomes.changes if c.anomaly),
        ],
    )
    await store.publish(conn, outcomes.changes, now=now)
