"""Deciding what an event does to an order: values in, values out, no database and no clock."""

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from typing import assert_never

from msgspec.structs import replace

from orderloop.events import (
    AnomalyRaised,
    CloseResult,
    ParcelStatus,
    ParcelTracked,
    PaymentNotified,
    PickupDetected,
    RefundNotified,
    SettlementResult,
    ShipmentRequested,
    TrackingRequested,
    WaybillCreated,
)

from . import closing, refunds, settling, states
from .money import Payment, Transaction, left, with_payment
from .orders import (
    AskRefund,
    Body,
    CatchUp,
    Close,
    Command,
    ConfirmReceipt,
    Dismiss,
    GiveUpRefund,
    Incoming,
    Order,
    Outcome,
    Parked,
    Refused,
    ReleaseRefund,
    Resettle,
    Retrack,
    Revive,
    Ship,
    Waiting,
    changed,
)
from .parcels import OVER, all_delivered, followed, labelled, stuck
from .states import Status


def decide(order: Order | None, cause: Incoming, *, taken: Mapping[Transaction, str]) -> Outcome:
    """What `cause` does to `order`, which is None if nobody knows it.

    `taken` says which order a channel transaction has paid, or goes back from.
    """
    body = cause.body
    if isinstance(body, AnomalyRaised):
        return Parked(cause, body.kind, body.money_fen)
    if order is None:
        return Refused(cause, "unknown-order") if cause.is_command else Parked(cause, "unknown_order", _money(body))
    match body:
        case PaymentNotified():
            return _pay(order, cause, body, taken)
        case RefundNotified():
            return refunds.told(order, cause, body)
        case WaybillCreated():
            return _label(order, cause, body)
        case PickupDetected():
            return _follow(order, cause, body, ParcelStatus.PICKED_UP, body.picked_up_at)
        case ParcelTracked():
            return _follow(order, cause, body, body.status, body.at)
        case SettlementResult():
            return settling.told(order, cause, body)
        case CloseResult():
            return closing.answered(order, cause, body)
        case _:
            return _command(order, cause, body, taken)


def _command(order: Order, cause: Incoming, body: Command, taken: Mapping[Transaction, str]) -> Outcome:
    match body:
        case Ship():
            return _ship(order, cause, body)
        case ConfirmReceipt():
            return settling.confirm(order, cause)
        case Resettle():
            return settling.again(order, cause)
        case Close():
            return closing.ask(order, cause, body)
        case AskRefund():
            owner = taken.get(body.transaction, order.order_no) if body.transaction else order.order_no
            # Another order lives on that money; it only named this one as well.
            return refunds.ask(order, cause, body) if owner == order.order_no else Refused(cause, "transaction-reused")
        case ReleaseRefund():
            return refunds.release(order, cause, body)
        case GiveUpRefund():
            return refunds.give_up(order, cause, body)
        case Revive():
            return _revive(order, cause, body.payment, taken)
        case CatchUp():
            return changed(order, cause, body.event, detail={"since": "the refund that came to nothing"})
        case Retrack():
            return _retrack(order, cause, body)
        case Dismiss():
            detail = {"anomaly": body.anomaly, "reason": body.reason}
            return changed(order, cause, states.Event.ANOMALY_DISMISSED, detail=detail)
        case _:
            assert_never(body)


def _pay(order: Order, cause: Incoming, body: PaymentNotified, taken: Mapping[Transaction, str]) -> Outcome:
    if (misfit := _misfit(order, body, taken)) is not None:
        return Parked(cause, misfit, body.amount_fen)
    outcome = _paid(order, cause, states.Event.PAYMENT_SUCCEEDED, body)
    if isinstance(outcome, Parked):
        kind = "paid_after_close" if order.status is Status.CLOSED else "paid_twice"
        return replace(outcome, kind=kind, money_fen=body.amount_fen)
    return outcome


def _revive(order: Order, cause: Incoming, body: PaymentNotified, taken: Mapping[Transaction, str]) -> Outcome:
    if (misfit := _misfit(order, body, taken)) is not None:
        return Refused(cause, misfit.replace("_", "-"))
    noted = next((p for p in order.payments if p.transaction == (body.channel, body.transaction_id)), None)
    if noted is not None and left(noted, order.refunds) < order.amount_fen:
        return Refused(cause, "payment-refunded")
    return _paid(order, cause, states.Event.REVIVED, body)


def _misfit(order: Order, body: PaymentNotified, taken: Mapping[Transaction, str]) -> str | None:
    """Why a payment is not this order's, as an anomaly kind."""
    kind = None
    owner = taken.get((body.channel, body.transaction_id))
    if owner not in {None, order.order_no} or (owner and order.status is Status.PENDING):
        kind = "transaction_reused"  # pays another order; or was asked to go back, from there or from here
    elif body.currency != order.currency:
        kind = "currency_mismatch"
    elif body.amount_fen != order.amount_fen:
        kind = "amount_mismatch"
    return kind


def _paid(order: Order, cause: Incoming, event: states.Event, body: PaymentNotified) -> Outcome:
    payment = Payment(
        body.channel, body.transaction_id, body.mchid, body.amount_fen, body.currency, body.paid_at, applied=True
    )
    return changed(
        order,
        cause,
        event,
        after=replace(order, channel=body.channel, mchid=body.mchid, payments=with_payment(order.payments, payment)),
        detail={"channel": body.channel, "transaction_id": body.transaction_id, "amount_fen": body.amount_fen},
    )


def _ship(order: Order, cause: Incoming, body: Ship) -> Outcome:
    request = ShipmentRequested(
        order_no=order.order_no,
        shipment_id=body.shipment_id,
        decision=body.decision,
        items=body.items,
        receiver=body.receiver,
    )
    return changed(
        order,
        cause,
        states.Event.SHIPMENT_ACCEPTED,
        detail={"shipment_id": body.shipment_id, **asdict(body.decision)},
        consequences=((f"{body.shipment_id}:requested", request),),
    )


def _label(order: Order, cause: Incoming, body: WaybillCreated) -> Outcome:
    return changed(
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
    is_over = status in OVER  # most scans are of the way, and end nothing
    arrived = is_over and all_delivered(parcels) and not all_delivered(order.parcels)
    # No signature is to be expected any more, so no time-out will ever confirm the receipt.
    is_stuck = is_over and order.status is Status.SHIPPED and stuck(parcels) and not stuck(order.parcels)
    return changed(
        order,
        cause,
        states.Event.ALL_PARCELS_DELIVERED if arrived else states.Event.PARCEL_TRACKED,
        after=replace(order, parcels=parcels),
        anomaly="delivery_incomplete" if is_stuck else None,
        money_fen=order.amount_fen if is_stuck else 0,
        detail={
            "express_code": body.express_code,
            "waybill_no": body.waybill_no,
            "status": status,
            "place": body.place,
            "at": at,
        },
    )


def _retrack(order: Order, cause: Incoming, body: Retrack) -> Outcome:
    parcel = order.parcels.get((body.express_code, body.waybill_no))
    if parcel is None or parcel.has_ended:
        return Refused(cause, "no-such-parcel" if parcel is None else "parcel-has-ended")
    request = TrackingRequested(
        order_no=order.order_no,
        express_code=body.express_code,
        waybill_no=body.waybill_no,
        requested_at=cause.occurred_at,
    )
    return changed(
        order,
        cause,
        states.Event.TRACKING_REQUESTED,
        detail={
            "express_code": body.express_code,
            "waybill_no": body.waybill_no,
            "requested_at": cause.occurred_at,
        },
        consequences=((f"{body.express_code}:{body.waybill_no}:tracking-requested:{order.version + 1}", request),),
    )


def _money(body: Body) -> int:
    match body:
        case PaymentNotified() | SettlementResult():
            return body.amount_fen
        case RefundNotified():
            return body.refund_fen
        case _:
            return 0
