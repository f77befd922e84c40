"""Giving money back. Only all of it moves an order; while a settlement is at the bank, a refund waits.

An order is `refunding` exactly while all that it was paid has gone back or is on its way back. A closed order lives on
no payment; what came too late is all that it was ever paid.
"""

from msgspec.structs import replace

from orderloop.events import RefundNotified, RefundRequested

from . import states
from .money import Payment, Refund, RefundState, applied, going_back, left, may_become, refunded, with_refund
from .orders import (
    AskRefund,
    CatchUp,
    Change,
    GiveUpRefund,
    Incoming,
    Order,
    Outcome,
    Parked,
    Refused,
    ReleaseRefund,
    changed,
)
from .parcels import all_delivered
from .states import Status

_SAID = {"SUCCESS": RefundState.SUCCESS, "ABNORMAL": RefundState.ABNORMAL, "CLOSED": RefundState.CLOSED}


def ask(order: Order, cause: Incoming, body: AskRefund) -> Outcome:
    """A person or the shop wants money to go back."""
    payment = _payment(order, body)
    if payment is None:
        return Refused(cause, "no-such-payment")
    most = left(payment, order.refunds)
    amount_fen = most if body.amount_fen is None else body.amount_fen
    if not 0 < amount_fen <= most:
        return Refused(cause, "nothing-left-to-refund")
    refund = Refund(
        out_refund_no=f"{order.order_no}_R{len(order.refunds) + 1}",
        channel=payment.channel,
        transaction_id=payment.transaction_id,
        amount_fen=amount_fen,
        state=RefundState.ASKED,
        whole=False,
        reason=body.reason,
    )
    if payment.applied and any(instruction.at_the_bank for instruction in order.instructions):
        held = replace(refund, state=RefundState.HELD)
        after = replace(order, refunds=with_refund(order.refunds, held))
        outcome = changed(
            order, cause, states.Event.REFUND_HELD, after=after, detail=_detail(held), money_fen=amount_fen
        )
        # A completed order waits for nothing more; but a second instruction may pay out what this would give back.
        return Refused(cause, "settlement-under-way") if isinstance(outcome, Refused) else outcome
    return _asked(order, cause, payment, refund)


def release(order: Order, cause: Incoming, body: ReleaseRefund) -> Outcome:
    """The bank has said its last word; what waited for it is asked for now."""
    refund = next(r for r in order.refunds if r.out_refund_no == body.out_refund_no)
    payment = next(p for p in order.payments if p.transaction == refund.transaction)
    return _asked(order, cause, payment, replace(refund, state=RefundState.ASKED))


def _asked(order: Order, cause: Incoming, payment: Payment, refund: Refund) -> Outcome:
    everything = going_back(payment, with_refund(order.refunds, refund)) == payment.amount_fen
    refund = replace(refund, whole=everything and (payment.applied or order.status is Status.CLOSED))
    request = RefundRequested(
        order_no=order.order_no,
        channel=refund.channel,
        mchid=payment.mchid,
        transaction_id=refund.transaction_id,
        out_refund_no=refund.out_refund_no,
        refund_fen=refund.amount_fen,
        total_fen=payment.amount_fen,
        reason=refund.reason,
    )
    return changed(
        order,
        cause,
        states.Event.REFUND_REQUESTED if refund.whole else states.Event.PART_REFUND_REQUESTED,
        after=replace(order, refunds=with_refund(order.refunds, refund)),
        detail=_detail(refund),
        money_fen=refund.amount_fen,
        consequences=((f"{refund.out_refund_no}:requested", request),),
    )


def told(order: Order, cause: Incoming, body: RefundNotified) -> Outcome:
    """The channel's word on a refund."""
    refund = next((r for r in order.refunds if r.out_refund_no == body.out_refund_no), None)
    if refund is None or refund.state is RefundState.HELD:
        # Refunds are asked for by this service; one that was not is somebody's hand at the channel.
        return Parked(cause, "refund_not_requested", body.refund_fen)
    said = _SAID.get(body.refund_status)
    same = (refund.channel, refund.transaction_id, refund.amount_fen)
    if said is None or (body.channel, body.transaction_id, body.refund_fen) != same:
        return Parked(cause, "refund_differs", body.refund_fen)
    if not may_become(refund.state, said):
        return Parked(cause, "refund_contradiction", body.refund_fen)
    refund = replace(refund, state=said, refund_id=body.refund_id)
    after = replace(order, refunds=with_refund(order.refunds, refund))
    payment = next(p for p in order.payments if p.transaction == refund.transaction)
    if said is RefundState.SUCCESS:
        return _succeeded(order, cause, payment, refund, after)
    return _failed(order, cause, payment, refund, after)


def give_up(order: Order, cause: Incoming, body: GiveUpRefund) -> Outcome:
    """A person ends what the channel holds and cannot deliver. Should it deliver after all, that is a contradiction."""
    refund = next((r for r in order.refunds if r.out_refund_no == body.out_refund_no), None)
    if refund is None or refund.state not in {RefundState.ABNORMAL, RefundState.CLOSED}:
        return Refused(cause, "refund-not-stuck")
    ended = replace(refund, state=RefundState.CLOSED)
    return changed(
        order,
        cause,
        states.Event.REFUND_GIVEN_UP,
        after=replace(order, refunds=with_refund(order.refunds, ended)),
        detail={**_detail(ended), "because": body.reason},
    )


def _succeeded(order: Order, cause: Incoming, payment: Payment, refund: Refund, after: Order) -> Outcome:
    all_back = refunded(payment, after.refunds) == payment.amount_fen
    moves = all_back and _is_the_orders(order, payment)
    event = states.Event.REFUND_SUCCEEDED if moves else states.Event.PART_REFUND_SUCCEEDED
    return changed(order, cause, event, after=after, detail=_detail(refund), money_fen=refund.amount_fen)


def _failed(order: Order, cause: Incoming, payment: Payment, refund: Refund, after: Order) -> Outcome:
    """Not everything is on its way back any more: an order that was `refunding` returns to where it was."""
    moves = order.status is Status.REFUNDING and _is_the_orders(order, payment)
    outcome = changed(
        order,
        cause,
        states.Event.REFUND_FAILED if moves else states.Event.PART_REFUND_FAILED,
        after=after,
        detail=_detail(refund),
        anomaly="refund_failed",
        money_fen=refund.amount_fen,
    )
    return replace(outcome, follow=_catch_up(outcome)) if isinstance(outcome, Change) and moves else outcome


def _catch_up(change: Change) -> tuple[Incoming, ...]:
    """Labels and signatures of the meantime were only recorded; the order would wait for them for ever."""
    after, event_id = change.after, f"{change.after.order_no}:{change.after.version}"
    steps: list[states.Event] = []
    if after.status in {Status.PAID, Status.SHIPPING} and after.parcels:
        steps.append(states.Event.WAYBILL_CREATED)
    if (after.status is Status.SHIPPED or steps) and all_delivered(after.parcels):
        steps.append(states.Event.ALL_PARCELS_DELIVERED)
    return tuple(change.cause.follow(f"{event_id}:{step}", "catch-up", CatchUp(step)) for step in steps)


def _payment(order: Order, body: AskRefund) -> Payment | None:
    if body.transaction is None:
        return applied(order.payments)
    return next((p for p in order.payments if p.transaction == body.transaction), None)


def _is_the_orders(order: Order, payment: Payment) -> bool:
    """Whether the order stands or falls with this payment; a superfluous one never moves it."""
    of_this = (r for r in order.refunds if r.transaction == payment.transaction)
    return payment.applied or (applied(order.payments) is None and any(r.whole for r in of_this))


def _detail(refund: Refund) -> dict[str, object]:
    return {
        "out_refund_no": refund.out_refund_no,
        "channel": refund.channel,
        "transaction_id": refund.transaction_id,
        "amount_fen": refund.amount_fen,
        "state": refund.state,
        "reason": refund.reason,
    }
