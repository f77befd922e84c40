"""The life of an order. This table is the only place that says which event leads where.

docs/order-states.md and its diagram are generated from it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """Where an order stands. Each comment says who moves an order in, and who out."""

    PENDING = "pending"  # in: the shop reserves the number; out: payment-callback's notice, or closing
    PAID = "paid"  # in: a payment of the right amount and currency; out: a ship request, or an outside label
    SHIPPING = "shipping"  # in: one accepted ship request; out: the first label
    SHIPPED = "shipped"  # in: a label is printed, which is not yet a pickup; out: delivery or the customer
    DELIVERED = "delivered"  # in: every parcel is signed for; out: the customer, or N days
    PENDING_SETTLEMENT = "pending_settlement"  # in: receipt is confirmed; out: the bank's SUCCESS, nothing less
    COMPLETED = "completed"  # in: the bank said SUCCESS; out: only a refund
    CLOSED = "closed"  # in: nobody paid, and the channel was asked; out: an operator who revives or refunds
    REFUNDING = "refunding"  # in: a full refund was asked for; out: the channel's answer
    REFUNDED = "refunded"  # in: all that was applied is refunded; a dead end


class Event(StrEnum):
    """What can happen to an order."""

    PAYMENT_SUCCEEDED = "payment_succeeded"
    EXPIRED_UNPAID = "expired_unpaid"
    REVIVED = "revived"
    SHIPMENT_ACCEPTED = "shipment_accepted"
    WAYBILL_CREATED = "waybill_created"
    PARCEL_TRACKED = "parcel_tracked"
    ALL_PARCELS_DELIVERED = "all_parcels_delivered"
    RECEIPT_CONFIRMED = "receipt_confirmed"
    SETTLEMENT_SUCCEEDED = "settlement_succeeded"
    SETTLEMENT_PROCESSING = "settlement_processing"
    SETTLEMENT_FAILED = "settlement_failed"
    REFUND_REQUESTED = "refund_requested"
    REFUND_SUCCEEDED = "refund_succeeded"
    REFUND_FAILED = "refund_failed"


@dataclass(frozen=True, slots=True)
class Move:
    """The order changes its status."""

    to: Status


@dataclass(frozen=True, slots=True)
class Record:
    """The event is written to the order's log; the status stays."""


@dataclass(frozen=True, slots=True)
class Wait:
    """The event came before its predecessor: it is kept, and decided again when that comes."""


@dataclass(frozen=True, slots=True)
class MoveBack:
    """The order returns to the status that it had before the refund was asked for."""


Verdict = Move | Record | Wait | MoveBack

_RECORD = Record()
_WAIT = Wait()

# What the couriers say after the order has gone on: history, never a step back.
_LATE_SCANS: Mapping[Event, Verdict] = {
    Event.WAYBILL_CREATED: _RECORD,
    Event.PARCEL_TRACKED: _RECORD,
    Event.ALL_PARCELS_DELIVERED: _RECORD,
}
# Labels and scans race the payment and the ship request through other topics.
_EARLY_SCANS: Mapping[Event, Verdict] = {
    Event.PARCEL_TRACKED: _WAIT,
    Event.ALL_PARCELS_DELIVERED: _WAIT,
}

# Total over Status; a pair that is absent is illegal: it changes nothing and is parked at once.
TRANSITIONS: Mapping[Status, Mapping[Event, Verdict]] = {
    Status.PENDING: {
        Event.PAYMENT_SUCCEEDED: Move(Status.PAID),
        Event.EXPIRED_UNPAID: Move(Status.CLOSED),
        Event.WAYBILL_CREATED: _WAIT,
        **_EARLY_SCANS,
    },
    Status.PAID: {
        Event.SHIPMENT_ACCEPTED: Move(Status.SHIPPING),
        # an outside warehouse ships without asking us first
        Event.WAYBILL_CREATED: Move(Status.SHIPPED),
        Event.REFUND_REQUESTED: Move(Status.REFUNDING),
        **_EARLY_SCANS,
    },
    Status.SHIPPING: {
        Event.WAYBILL_CREATED: Move(Status.SHIPPED),
        Event.REFUND_REQUESTED: Move(Status.REFUNDING),
        **_EARLY_SCANS,
    },
    Status.SHIPPED: {
        **_LATE_SCANS,  # a second parcel's label, a scan on the way
        Event.ALL_PARCELS_DELIVERED: Move(Status.DELIVERED),
        # customers confirm before the courier's scan arrives
        Event.RECEIPT_CONFIRMED: Move(Status.PENDING_SETTLEMENT),
        Event.REFUND_REQUESTED: Move(Status.REFUNDING),
    },
    Status.DELIVERED: {
        **_LATE_SCANS,
        Event.RECEIPT_CONFIRMED: Move(Status.PENDING_SETTLEMENT),
        Event.REFUND_REQUESTED: Move(Status.REFUNDING),
    },
    Status.PENDING_SETTLEMENT: {
        **_LATE_SCANS,
        Event.SETTLEMENT_SUCCEEDED: Move(Status.COMPLETED),
        Event.SETTLEMENT_PROCESSING: _RECORD,
        Event.SETTLEMENT_FAILED: _RECORD,  # and an anomaly: somebody has to mend the money
        Event.REFUND_REQUESTED: Move(Status.REFUNDING),
    },
    Status.COMPLETED: {
        **_LATE_SCANS,
        Event.SETTLEMENT_PROCESSING: _RECORD,  # published before the success, read after it
        Event.REFUND_REQUESTED: Move(Status.REFUNDING),
    },
    # A late payment never vanishes: it is parked as paid_after_close until a person revives or refunds.
    Status.CLOSED: {
        Event.REVIVED: Move(Status.PAID),
        Event.REFUND_REQUESTED: Move(Status.REFUNDING),
    },
    Status.REFUNDING: {
        **_LATE_SCANS,
        Event.REFUND_SUCCEEDED: Move(Status.REFUNDED),
        Event.REFUND_FAILED: MoveBack(),
        Event.SETTLEMENT_PROCESSING: _RECORD,
    },
    Status.REFUNDED: {
        **_LATE_SCANS,
        Event.SETTLEMENT_PROCESSING: _RECORD,
    },
}


class IllegalTransition(Exception):
    """An event met an order that it cannot move. Nothing has changed."""

    def __init__(self, status: Status, event: Event) -> None:
        super().__init__(f"{event} cannot happen to an order that is {status}")
        self.status = status
        self.event = event


def verdict(status: Status, event: Event) -> Verdict:
    """What `event` does to an order that is `status`. Raises IllegalTransition."""
    try:
        return TRANSITIONS[status][event]
    except KeyError:
        raise IllegalTransition(status, event) from None
