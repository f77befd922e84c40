"""Closing an unpaid order: never without the channels' word that nobody has paid, and a payment always wins."""

from msgspec.structs import replace

from orderloop.events import CloseOutcome, CloseRequested, CloseResult

from . import states
from .orders import Close, Closing, Incoming, Order, Outcome, Parked, Refused, changed
from .states import Status

_EVENTS = {
    CloseOutcome.CLOSED: states.Event.CLOSE_CONFIRMED,
    CloseOutcome.PAID: states.Event.CLOSE_FOUND_PAID,
    CloseOutcome.UNKNOWN: states.Event.CLOSE_UNANSWERED,
}


def ask(order: Order, cause: Incoming, body: Close) -> Outcome:
    """Ask the channels to close the order; the status stays until they have answered."""
    is_open = order.closing is not None and order.closing.open
    if is_open is not body.again and order.status is Status.PENDING:
        return Refused(cause, "closing-already" if is_open else "not-closing")
    n = order.closing.asked + 1 if order.closing else 1
    request = CloseRequested(
        order_no=order.order_no,
        channel=order.channel,
        mchid=order.mchid,
        transaction_ids=tuple(payment.transaction_id for payment in order.payments),
        amount_fen=order.amount_fen,
    )
    return changed(
        order,
        cause,
        states.Event.CLOSE_REQUESTED,
        after=replace(order, closing=Closing(asked=n, open=True)),
        detail={"asked": n, "transaction_ids": request.transaction_ids},
        consequences=((f"{order.order_no}:close:{n}", request),),
    )


def answered(order: Order, cause: Incoming, body: CloseResult) -> Outcome:
    """The channels' word. That it was paid is evidence, raised as an anomaly by who asked: not here a second time."""
    if order.closing is None:
        return Parked(cause, "close_not_requested")
    if body.result is CloseOutcome.CLOSED and order.status is Status.PENDING and not order.closing.open:
        return Parked(cause, "close_not_requested")  # an older answer: the last one was that it is paid
    closing = replace(order.closing, open=order.closing.open and body.result is CloseOutcome.UNKNOWN)
    return changed(
        order,
        cause,
        _EVENTS[body.result],
        after=replace(order, closing=closing),
        detail={"result": body.result, "channel": body.channel},
    )
