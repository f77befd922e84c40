"""What an order is, what can come in about it, and what may become of that. Values only; `decide` decides.

Structs and not dataclasses: made, read and copied with a change for every event, in a fifth of the time.
"""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Any, assert_never, get_args

from msgspec import Struct
from msgspec.structs import replace

from orderloop.events import (
    AnomalyRaised,
    CloseResult,
    Decision,
    Event,
    Item,
    ParcelTracked,
    PaymentNotified,
    PickupDetected,
    Receiver,
    RefundNotified,
    SettlementResult,
    WaybillCreated,
)
from orderloop.inbox import EventKey

from . import states
from .money import Payment, Refund, Transaction
from .parcels import Parcel, ParcelKey
from .states import IllegalTransition, Status, Wait, verdict


class InstructionState(StrEnum):
    """How far a settlement is, as order-core has heard."""

    SENT = "sent"
    PROCESSING = "processing"
    SUCCESS = "success"
    FAILED = "failed"


class Instruction(Struct, frozen=True):
    """One order to settlement to split so much."""

    instruction_id: str
    amount_fen: int
    asked: int  # how often; a person may ask again after a failure
    state: InstructionState

    @property
    def at_the_bank(self) -> bool:
        return self.state in {InstructionState.SENT, InstructionState.PROCESSING}


class Closing(Struct, frozen=True):
    """The channels are asked to close an unpaid order."""

    asked: int  # how often; numbers the requests
    open: bool  # no last word yet


class Order(Struct, frozen=True, gc=False):
    order_no: str
    status: Status
    version: int  # how many changes so far; order_log holds exactly 1..version
    amount_fen: int
    currency: str
    channel: str | None = None  # of the payment that was applied
    mchid: str | None = None
    before_refund: Status | None = None
    parcels: Mapping[ParcelKey, Parcel] = MappingProxyType({})
    payments: tuple[Payment, ...] = ()
    refunds: tuple[Refund, ...] = ()
    instructions: tuple[Instruction, ...] = ()
    closing: Closing | None = None


class Ship(Struct, frozen=True):
    """An accepted wish to ship, from the shop's back office."""

    shipment_id: str
    decision: Decision
    items: tuple[Item, ...]
    receiver: Receiver


class ConfirmReceipt(Struct, frozen=True):
    """The customer has the goods, or has had them for days without a word."""


class Close(Struct, frozen=True):
    """Nobody has paid and nobody shall any more: ask the channels, or ask them again."""

    again: bool = False  # the timer's: only while the closing is open


class AskRefund(Struct, frozen=True):
    """Give money back: the order's own payment, or one that stands beside it."""

    reason: str
    amount_fen: int | None = None  # None: all that is left
    transaction: Transaction | None = None  # None: the applied one


class ReleaseRefund(Struct, frozen=True):
    """The bank has said its last word: the refund that waited for it goes out."""

    out_refund_no: str


class GiveUpRefund(Struct, frozen=True):
    """The channel cannot deliver it, and nobody will try any longer: its money is the order's again."""

    out_refund_no: str
    reason: str


class CatchUp(Struct, frozen=True):
    """What the couriers did while a refund that came to nothing kept the order from moving."""

    event: states.Event


class Revive(Struct, frozen=True):
    """A late payment counts after all, for an order that was closed."""

    payment: PaymentNotified


class Resettle(Struct, frozen=True):
    """The bank refused; the cause is mended: settle again."""


class Retrack(Struct, frozen=True):
    """Nobody follows the parcel any more, or it is silent: have its courier asked anew."""

    express_code: str
    waybill_no: str


class Dismiss(Struct, frozen=True):
    """A person has looked at an anomaly, and nothing is to be done."""

    anomaly: str  # its kind
    reason: str


Command = (
    Ship
    | ConfirmReceipt
    | Close
    | AskRefund
    | ReleaseRefund
    | GiveUpRefund
    | CatchUp
    | Revive
    | Resettle
    | Retrack
    | Dismiss
)
COMMANDS = get_args(Command)

Body = (
    PaymentNotified
    | RefundNotified
    | WaybillCreated
    | PickupDetected
    | ParcelTracked
    | SettlementResult
    | CloseResult
    | AnomalyRaised
    | Command
)


class Incoming(Struct, frozen=True, gc=False):
    """A fact or a command about one order, as it came in."""

    order_no: str
    event_id: str
    type: str  # CloudEvents type, or the command's name
    actor: str  # CloudEvents source, or who called
    occurred_at: datetime
    body: Body
    traceparent: str | None = None

    @property
    def key(self) -> EventKey:
        return self.order_no, self.event_id

    @property
    def is_command(self) -> bool:
        return isinstance(self.body, COMMANDS)

    @property
    def is_foreign(self) -> bool:
        """Whether its producer is outside the house: then, and only then, the envelope joined source and id with #."""
        return "#" in self.event_id and not self.is_command

    def follow(self, event_id: str, type: str, body: Command) -> "Incoming":  # noqa: A002 # the field's name
        """What this brings about by itself, in the same transaction and the same trace."""
        return Incoming(self.order_no, event_id, type, "/order-core", self.occurred_at, body, self.traceparent)


# Which kind of anomaly an event makes pointless, wherever that came from, if it is about the same transaction. A part
# that went back ends its own refund's failures, all of it every failure of its payment's. A settlement is the order's:
# whichever instruction succeeds, nothing of a former one is left to be mended.
ENDS: Mapping[states.Event, str] = {
    states.Event.PAYMENT_SUCCEEDED: "callback_missing",
    states.Event.REVIVED: "callback_missing",
    states.Event.SETTLEMENT_SUCCEEDED: "settlement_failed",
    states.Event.REFUND_SUCCEEDED: "refund_failed",
    states.Event.PART_REFUND_SUCCEEDED: "refund_failed",
}


class Change(Struct, frozen=True, gc=False):
    """One more version of the order, with everything that happens in the same transaction."""

    before: Order
    after: Order
    cause: Incoming
    event: states.Event
    detail: Mapping[str, Any]  # what the timeline shows of it; no personal data
    anomaly: str | None = None  # a kind, where the change itself needs a person
    money_fen: int = 0  # at risk
    consequences: tuple[tuple[str, Event], ...] = ()  # (event id, event) to be published
    follow: tuple[Incoming, ...] = ()  # to be decided right after

    @property
    def left_for_a_person(self) -> "Parked | None":
        """Under an id of its own: the event's may have stood at the desk, and be put away because it is applied now."""
        if self.anomaly is None:
            return None
        event_id = f"{self.cause.event_id}#{self.anomaly}"
        return Parked(replace(self.cause, event_id=event_id), self.anomaly, self.money_fen)


class Waiting(Struct, frozen=True):
    """The event came before its predecessor and is kept for it."""

    cause: Incoming


class Parked(Struct, frozen=True):
    """The event changed nothing and stands at the desk."""

    cause: Incoming
    kind: str  # an anomaly kind, see docs/anomalies.md
    money_fen: int = 0  # at risk
    after: Order | None = None  # the order knowing what the event says, without a version of its own


class Refused(Struct, frozen=True):
    """A command that is not possible. Its caller is there to be told, so nothing is kept."""

    cause: Incoming
    reason: str  # one word for programs, see docs/problems.md


Outcome = Change | Waiting | Parked | Refused


def changed(
    order: Order,
    cause: Incoming,
    event: states.Event,
    *,
    detail: Mapping[str, Any],
    after: Order | None = None,
    anomaly: str | None = None,
    money_fen: int = 0,
    consequences: tuple[tuple[str, Event], ...] = (),
    follow: tuple[Incoming, ...] = (),
) -> Outcome:
    """Ask the table, and make the order's next version of its answer."""
    try:
        answer = verdict(order.status, event)
    except IllegalTransition:
        if cause.is_command:
            return Refused(cause, "status")
        return Parked(cause, "illegal_transition", money_fen)
    match answer:
        case Wait():
            return Refused(cause, "status") if cause.is_command else Waiting(cause)
        case states.Record():
            to = order.status
        case states.Move():
            to = answer.to
        case states.MoveBack():
            to = order.before_refund or order.status
        case _:
            assert_never(answer)
    refunding = to is Status.REFUNDING and order.status is not Status.REFUNDING
    after = replace(
        after or order,
        status=to,
        version=order.version + 1,
        before_refund=order.status if refunding else order.before_refund,
    )
    return Change(order, after, cause, event, detail, anomaly, money_fen, consequences, follow)
