"""Deciding what an event does to an order: values in, values out, no database and no clock."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, assert_never

from orderloop.events import (
    AnomalyRaised,
    Decision,
    Event,
    Item,
    ParcelStatus,
    ParcelTracked,
    PaymentNotified,
    PickupDetected,
    Receiver,
    RefundNotified,
    SettlementRequested,
    SettlementResult,
    SettlementStatus,
    ShipmentRequested,
    WaybillCreated,
)
from orderloop.inbox import EventKey

from . import states
from .parcels import Parcel, ParcelKey, all_delivered, followed, labelled
from .states import IllegalTransition, Status, Wait, verdict

Transaction = tuple[str, str]  # channel, transaction id


@dataclass(frozen=True, slots=True)
class Payment:
    """One channel transaction that named this order; applied or standing at the desk."""

    channel: str
    transaction_id: str
    mchid: str
    amount_fen: int
    currency: str
    paid_at: datetime
    applied: bool


@dataclass(frozen=True, slots=True)
class Order:
    order_no: str
    status: Status
    version: int  # how many changes so far; order_log holds exactly 1..version
    amount_fen: int
    currency: str
    channel: str | None = None  # of the payment that was applied
    mchid: str | None = None
    before_refund: Status | None = None
    parcels: Mapping[ParcelKey, Parcel] = field(default_factory=dict[ParcelKey, Parcel])
    payments: tuple[Payment, ...] = ()


@dataclass(frozen=True, slots=True)
class Ship:
    """An accepted wish to ship, from the shop's back office."""

    shipment_id: str
    decision: Decision
    items: tuple[Item, ...]
    receiver: Receiver


@dataclass(frozen=True, slots=True)
class ConfirmReceipt:
    """The customer has the goods."""


Body = (
    PaymentNotified
    | RefundNotified
    | WaybillCreated
    | PickupDetected
    | ParcelTracked
    | SettlementResult
    | AnomalyRaised
    | Ship
    | ConfirmReceipt
)


@dataclass(frozen=True, slots=True)
class Incoming:
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


@dataclass(frozen=True, slots=True)
class Change:
    """One more version of the order, with everything that happens in the same transaction."""

    before: Order
    after: Order
    cause: Incoming
    event: states.Event
    detail: Mapping[str, Any]  # what the timeline shows of it; no personal data
    anomaly: str | None = None  # a kind, where the change itself needs a person
    consequences: tuple[tuple[str, Event], ...] = ()  # (event id, event) to be published


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


Outcome = Change | Waiting | Parked


def decide(order: Order | None, cause: Incoming, *, taken: Mapping[Transaction, str]) -> Outcome:
    """What `cause` does to `order`, which is None if nobody knows it.

    `taken` says which order a channel transaction has already paid.
    """
    body = cause.body
    if isinstance(body, AnomalyRaised):
        return Parked(cause, body.kind, body.money_fen)
    if order is None:
        return Parked(cause, "unknown_order", _money(body))
    match body:
        case PaymentNotified():
            return _pay(order, cause, body, taken)
        case RefundNotified():
            # Refunds are asked for by this service; one that was not is somebody's hand at the channel.
            return Parked(cause, "refund_not_requested", body.refund_fen)
        case WaybillCreated():
            return _label(order, cause, body)
        case PickupDetected():
            return _follow(order, cause, body, ParcelStatus.PICKED_UP, body.picked_up_at)
        case ParcelTracked():
            return _follow(order, cause, body, body.status, body.at)
        case SettlementResult():
            return _settle(order, cause, body)
        case Ship():
            request = ShipmentRequested(
                order_no=order.order_no,
                shipment_id=body.shipment_id,
                decision=body.decision,
                items=body.items,
                receiver=body.receiver,
            )
            return _change(
                order,
                cause,
                states.Event.SHIPMENT_ACCEPTED,
                detail={"shipment_id": body.shipment_id, **body.decision.model_dump()},
                consequences=((f"{body.shipment_id}:requested", request),),
            )
        case ConfirmReceipt():
            return _confirm(order, cause)
        case _:
            assert_never(body)


def _pay(order: Order, cause: Incoming, body: PaymentNotified, taken: Mapping[Transaction, str]) -> Outcome:
    payment = Payment(
        body.channel, body.transaction_id, body.mchid, body.amount_fen, body.currency, body.paid_at, applied=True
    )
    owner = taken.get((body.channel, body.transaction_id))
    if owner not in {None, order.order_no}:
        return Parked(cause, "transaction_reused", body.amount_fen)
    if body.currency != order.currency:
        return Parked(cause, "currency_mismatch", body.amount_fen)
    if body.amount_fen != order.amount_fen:
        return Parked(cause, "amount_mismatch", body.amount_fen)
    after = replace(order, channel=body.channel, mchid=body.mchid, payments=(*order.payments, payment))
    outcome = _change(
        order,
        cause,
        states.Event.PAYMENT_SUCCEEDED,
        after=after,
        detail={"channel": body.channel, "transaction_id": body.transaction_id, "amount_fen": body.amount_fen},
    )
    if isinstance(outcome, Parked):
        kind = "paid_after_close" if order.status is Status.CLOSED else "paid_twice"
        return replace(outcome, kind=kind, money_fen=body.amount_fen)
    return outcome


def _label(order: Order, cause: Incoming, body: WaybillCreated) -> Outcome:
    return _change(
        order,
        cause,
        states.Event.WAYBILL_CREATED,
        after=replace(order, parcels=labelled(order.parcels, body)),
        detail={"express_code": body.express_code, "waybill_no": body.waybill_no, "warehouse": body.warehouse},
    )


def _follow(
    order: Order, cause: Incoming, body: PickupDetected | ParcelTracked, status: ParcelStatus, at: datetime
) -> Outcome:
    key = (body.express_code, body.waybill_no)
    if key not in order.parcels:
        return Waiting(cause)  # the scan overtook its own label, whatever the order's status
    parcels = followed(order.parcels, key, status, at)
    arrived = all_delivered(parcels) and not all_delivered(order.parcels)
    event = states.Event.ALL_PARCELS_DELIVERED if arrived else states.Event.PARCEL_TRACKED
    detail = {
        "express_code": body.express_code,
        "waybill_no": body.waybill_no,
        "status": status,
        "place": body.place,
        "at": at.isoformat(),
    }
    return _change(order, cause, event, after=replace(order, parcels=parcels), detail=detail)


def _settle(order: Order, cause: Incoming, body: SettlementResult) -> Outcome:
    detail = body.model_dump(mode="json", exclude={"order_no"}, exclude_none=True)
    match body.status:
        case SettlementStatus.SUCCESS:
            return _change(order, cause, states.Event.SETTLEMENT_SUCCEEDED, detail=detail, money_fen=body.amount_fen)
        case SettlementStatus.PROCESSING:
            return _change(order, cause, states.Event.SETTLEMENT_PROCESSING, detail=detail, money_fen=body.amount_fen)
        case SettlementStatus.FAILED:
            return _change(
                order,
                cause,
                states.Event.SETTLEMENT_FAILED,
                detail=detail,
                anomaly="settlement_failed",
                money_fen=body.amount_fen,
            )
        case _:
            assert_never(body.status)


def _confirm(order: Order, cause: Incoming) -> Outcome:
    applied = [payment for payment in order.payments if payment.applied]
    instruction_id = f"{order.order_no}_P1"
    request = SettlementRequested(
        order_no=order.order_no,
        instruction_id=instruction_id,
        channel=order.channel or "",
        transaction_ids=tuple(payment.transaction_id for payment in applied),
        amount_fen=sum(payment.amount_fen for payment in applied),
    )
    return _change(
        order,
        cause,
        states.Event.RECEIPT_CONFIRMED,
        detail={"instruction_id": instruction_id, "amount_fen": request.amount_fen},
        consequences=((f"{instruction_id}:requested", request),),
    )


def _change(
    order: Order,
    cause: Incoming,
    event: states.Event,
    *,
    detail: Mapping[str, Any],
    after: Order | None = None,
    anomaly: str | None = None,
    money_fen: int = 0,
    consequences: tuple[tuple[str, Event], ...] = (),
) -> Outcome:
    """Ask the table, and make the order's next version of its answer."""
    try:
        answer = verdict(order.status, event)
    except IllegalTransition:
        return Parked(cause, "illegal_transition", money_fen)
    match answer:
        case Wait():
            return Waiting(cause)
        case states.Record():
            to = order.status
        case states.Move():
            to = answer.to
        case states.MoveBack():
            to = order.before_refund or order.status
        case _:
            assert_never(answer)
    after = replace(
        after or order,
        status=to,
        version=order.version + 1,
        before_refund=order.status if to is Status.REFUNDING else order.before_refund,
    )
    return Change(order, after, cause, event, detail, anomaly, consequences)


def _money(body: Body) -> int:
    match body:
        case PaymentNotified() | SettlementResult():
            return body.amount_fen
        case RefundNotified():
            return body.refund_fen
        case _:
            return 0
