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
    CLOSE_REQUESTED = "close_requested"
    CLOSE_CONFIRMED = "close_confirmed"
    CLOSE_FOUND_PAID = "close_found_paid"
    CLOSE_UNANSWERED = "close_unanswered"
    REVIVED = "revived"
    SHIPMENT_ACCEPTED = "shipment_accepted"
    WAYBILL_CREATED = "waybill_created"
    PARCEL_TRACKED = "parcel_tracked"
    ALL_PARCELS_DELIVERED = "all_parcels_delivered"
    RECEIPT_CONFIRMED = "receipt_confirmed"
    SETTLEMENT_SUCCEEDED = "settlement_succeeded"
    SETTLEMENT_PROCESSING = "settlement_processing"
    SETTLEMENT_FAILED = "settlement_failed"
    SETTLEMENT_RETRIED = "settlement_retried"
    REFUND_REQUESTED = "refund_requested"
    REFUND_HELD = "refund_held"
    REFUND_SUCCEEDED = "refund_succeeded"
    REFUND_FAILED = "refund_failed"
    PART_REFUND_REQUESTED = "part_refund_requested"
    PART_REFUND_SUCCEEDED = "part_refund_succeeded"
    PART_REFUND_FAILED = "part_refund_failed"
    REFUND_GIVEN_UP = "refund_given_up"
    TRACKING_REQUESTED = "tracking_requested"
    ANOMALY_DISMISSED = "anomaly_dismissed"


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

# What never moves an order: part of its money going back, all of a superfluous payment's, a person's note at the desk.
# Nor does giving up a refund: when the channel could not deliver it, the order went back to where it was.
_ASIDE: Mapping[Event, Verdict] = {
    Event.PART_REFUND_REQUESTED: _RECORD,
    Event.PART_REFUND_SUCCEEDED: _RECORD,
    Event.PART_REFUND_FAILED: _RECORD,
    Event.REFUND_GIVEN_UP: _RECORD,
    Event.TRACKING_REQUESTED: _RECORD,  # a parcel is to be asked for anew, wherever its order is by now
    Event.ANOMALY_DISMISSED: _RECORD,
}
# The channels' answer to a close that no longer matters: it is closed already, or a payment has won.
_LATE_CLOSE: Mapping[Event, Verdict] = {
    Event.CLOSE_CONFIRMED: _RECORD,
    Event.CLOSE_FOUND_PAID: _RECORD,
    Event.CLOSE_UNANSWERED: _RECORD,
}
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
# All the money goes back. A refund that had become abnormal moved the order back, and may still succeed or end.
_WHOLE_REFUND: Mapping[Event, Verdict] = {
    Event.REFUND_REQUESTED: Move(Status.REFUNDING),
    Event.REFUND_SUCCEEDED: Move(Status.REFUNDED),
    Event.REFUND_FAILED: _RECORD,
}

# Total over Status; a pair that is absent is illegal: it changes nothing and is parked at once.
TRANSITIONS: Mapping[Status, Mapping[Event, Verdict]] = {
    Status.PENDING: {
        Event.PAYMENT_SUCCEEDED: Move(Status.PAID),
        Event.CLOSE_REQUESTED: _RECORD,  # the channels are asked first: a payment may be on its way
        Event.CLOSE_CONFIRMED: Move(Status.CLOSED),
        Event.CLOSE_FOUND_PAID: _RECORD,  # evidence, not the payment: its notice or the desk moves the order
        Event.CLOSE_UNANSWERED: _RECORD,
        Event.WAYBILL_CREATED: _WAIT,
        **_EARLY_SCANS,
        **_ASIDE,
    },
    Status.PAID: {
        Event.SHIPMENT_ACCEPTED: Move(Status.SHIPPING),
        # an outside warehouse ships without asking us first
        Event.WAYBILL_CREATED: Move(Status.SHIPPED),
        **_WHOLE_REFUND,
        **_EARLY_SCANS,
        **_LATE_CLOSE,
        **_ASIDE,
    },
    Status.SHIPPING: {
        Event.WAYBILL_CREATED: Move(Status.SHIPPED),
        **_WHOLE_REFUND,
        **_EARLY_SCANS,
        **_LATE_CLOSE,
        **_ASIDE,
    },
    Status.SHIPPED: {
        **_LATE_SCANS,  # a second parcel's label, a scan on the way
        Event.ALL_PARCELS_DELIVERED: Move(Status.DELIVERED),
        # customers confirm before the courier's scan arrives
        Event.RECEIPT_CONFIRMED: Move(Status.PENDING_SETTLEMENT),
        **_WHOLE_REFUND,
        **_LATE_CLOSE,
        **_ASIDE,
    },
    Status.DELIVERED: {
        **_LATE_SCANS,
        Event.RECEIPT_CONFIRMED: Move(Status.PENDING_SETTLEMENT),
        **_WHOLE_REFUND,
        **_LATE_CLOSE,
        **_ASIDE,
    },
    Status.PENDING_SETTLEMENT: {
        **_LATE_SCANS,
        Event.SETTLEMENT_SUCCEEDED: Move(Status.COMPLETED),
        Event.SETTLEMENT_PROCESSING: _RECORD,
        Event.SETTLEMENT_FAILED: _RECORD,  # and an anomaly: somebody has to mend the money
        Event.SETTLEMENT_RETRIED: _RECORD,
        # the instruction is at the bank: money cannot go both ways, so the refund waits for the bank's last word
        Event.REFUND_HELD: _RECORD,
        **_WHOLE_REFUND,  # after that word
        **_LATE_CLOSE,
        **_ASIDE,
    },
    Status.COMPLETED: {
        **_LATE_SCANS,
        Event.SETTLEMENT_PROCESSING: _RECORD,  # published before the success, read after it
        **_WHOLE_REFUND,
        **_LATE_CLOSE,
        **_ASIDE,
    },
    # A late payment never vanishes: it is parked as paid_after_close until a person revives or refunds.
    Status.CLOSED: {
        Event.REVIVED: Move(Status.PAID),
        **_WHOLE_REFUND,
        **_LATE_CLOSE,
        **_ASIDE,
    },
    # A settlement's SUCCESS now means that the money has gone both ways: it is parked as settled_and_refunded.
    Status.REFUNDING: {
        **_LATE_SCANS,
        Event.REFUND_SUCCEEDED: Move(Status.REFUNDED),
        Event.REFUND_FAILED: MoveBack(),
        Event.SETTLEMENT_PROCESSING: _RECORD,
        **_LATE_CLOSE,
        **_ASIDE,
    },
    Status.REFUNDED: {
        **_LATE_SCANS,
        Event.SETTLEMENT_PROCESSING: _RECORD,
        **_LATE_CLOSE,
        **_ASIDE,
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
