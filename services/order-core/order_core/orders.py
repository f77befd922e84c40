"""What an order is, what can come in about it, and what may become of that. Values only; `decide` decides.

What is made anew for every event is a NamedTuple and not a frozen dataclass: a fourth of the time.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Any, NamedTuple, assert_never

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


@dataclass(frozen=True, slots=True)
class Instruction:
    """One order to settlement to split so much."""

    instruction_id: str
    amount_fen: int
    asked: int  # how often; a person may ask again after a failure
    state: InstructionState

    @property
    def at_the_bank(self) -> bool:
        return self.state in {InstructionState.SENT, InstructionState.PROCESSING}


@dataclass(frozen=True, slots=True)
class Closing:
    """The channels are asked to close an unpaid order."""

    asked: int  # how often; numbers the requests
    open: bool  # no last word yet


class Order(NamedTuple):
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


@dataclass(frozen=True, slots=True)
class Ship:
    """An accepted wish to ship, from the shop's back office."""

    shipment_id: str
    decision: Decision
    items: tuple[Item, ...]
    receiver: Receiver


@dataclass(frozen=True, slots=True)
class ConfirmReceipt:
    """The customer has the goods, or has had them for days without a word."""


@dataclass(frozen=True, slots=True)
class Close:
    """Nobody has paid and nobody shall any more: ask the channels, or ask them again."""

    again: bool = False  # the timer's: only while the closing is open


@dataclass(frozen=True, slots=True)
class AskRefund:
    """Give money back: the order's own payment, or one that stands beside it."""

    reason: str
    amount_fen: int | None = None  # None: all that is left
    transaction: Transaction | None = None  # None: the applied one


@dataclass(frozen=True, slots=True)
class ReleaseRefund:
    """The bank has said its last word: the refund that waited for it goes out."""

    out_refund_no: str


@dataclass(frozen=True, slots=True)
class GiveUpRefund:
    """The channel cannot deliver it, and nobody will try any longer: its money is the order's again."""

    out_refund_no: str
    reason: str


@dataclass(frozen=True, slots=True)
class CatchUp:
    """What the couriers did while a refund that came to nothing kept the order from moving."""

    event: states.Event


@dataclass(frozen=True, slots=True)
class Revive:
    """A late payment counts after all, for an order that was closed."""

    payment: PaymentNotified


@dataclass(frozen=True, slots=True)
class Resettle:
    """The bank refused; the cause is mended: settle again."""


@dataclass(frozen=True, slots=True)
class Dismiss:
    """A person has looked at an anomaly, and nothing is to be done."""

    anomaly: str  # its kind
    reason: str


Command = (
    Ship | ConfirmReceipt | Close | AskRefund | ReleaseRefund | GiveUpRefund | CatchUp | Revive | Resettle | Dismiss
)
COMMANDS = (Ship, ConfirmReceipt, Close, AskRefund, ReleaseRefund, GiveUpRefund, CatchUp, Revive, Resettle, Dismiss)

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


class Incoming(NamedTuple):
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


# Which kind of anomaly an event makes pointless for its order, wherever that came from.
ENDS: Mapping[states.Event, str] = {
    states.Event.PAYMENT_SUCCEEDED: "callback_missing",
    states.Event.REVIVED: "callback_missing",
    states.Event.SETTLEMENT_SUCCEEDED: "settlement_failed",
    states.Event.REFUND_SUCCEEDED: "refund_failed",
}


class Change(NamedTuple):
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


@dataclass(frozen=True, slots=True)
class Waiting:
    """The event came before its predecessor and is kept for it."""

    cause: Incoming


@dataclass(frozen=True, slots=True)
class Parked:
    """The event changed nothing and stands at the desk."""

    cause: Incoming
    kind: str  # an anomaly kind, see docs/anomalies.md
    money_fen: int = 0  # at risk


@dataclass(frozen=True, slots=True)
class Refused:
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
    after = (after or order)._replace(
        status=to,
        version=order.version + 1,
        before_refund=order.status if refunding else order.before_refund,
    )
    return Change(order, after, cause, event, detail, anomaly, money_fen, consequences, follow)
