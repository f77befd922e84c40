"""The money of an order: what was paid, what goes back, what is left to settle."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from enum import StrEnum

from msgspec import Struct

Transaction = tuple[str, str]  # channel, transaction id


class Payment(Struct, frozen=True, gc=False):
    """One channel transaction that named this order; applied or standing at the desk."""

    channel: str
    transaction_id: str
    mchid: str
    amount_fen: int
    currency: str
    paid_at: datetime
    applied: bool

    @property
    def transaction(self) -> Transaction:
        return self.channel, self.transaction_id


class RefundState(StrEnum):
    """How far a refund is. Everything but CLOSED keeps its money from being settled or refunded once more."""

    HELD = "held"  # in: asked for while a settlement is at the bank; out: the bank's last word
    ASKED = "asked"  # in: the channel is asked; out: the channel's word
    SUCCESS = "success"  # the customer has the money
    ABNORMAL = "abnormal"  # the channel has the money and cannot deliver it; it may still succeed
    CLOSED = "closed"  # the channel has ended it, or a person an abnormal one; nothing was paid back


class Refund(Struct, frozen=True):
    out_refund_no: str  # ours, and the key under which the channel gives money back once
    channel: str
    transaction_id: str
    amount_fen: int
    state: RefundState
    whole: bool  # asking for it moved the order: with it everything goes back
    reason: str
    refund_id: str | None = None  # the channel's own

    @property
    def number(self) -> int:
        """Which of the order's refunds it is, from 1."""
        return int(self.out_refund_no.rpartition("_R")[2])

    @property
    def transaction(self) -> Transaction:
        return self.channel, self.transaction_id


# What the channel may say of a refund in each state. Anything else contradicts what it said before.
_STEPS = {
    RefundState.HELD: frozenset[RefundState](),
    RefundState.ASKED: frozenset({RefundState.SUCCESS, RefundState.ABNORMAL, RefundState.CLOSED}),
    RefundState.ABNORMAL: frozenset({RefundState.SUCCESS, RefundState.CLOSED}),
    RefundState.SUCCESS: frozenset[RefundState](),
    RefundState.CLOSED: frozenset[RefundState](),
}


def may_become(state: RefundState, said: RefundState) -> bool:
    return said in _STEPS[state]


def with_payment(payments: Sequence[Payment], payment: Payment) -> tuple[Payment, ...]:
    """The payments with this one, which may have stood there unapplied."""
    if not payments:
        return (payment,)
    return (*(p for p in payments if p.transaction != payment.transaction), payment)


def with_refund(refunds: Sequence[Refund], refund: Refund) -> tuple[Refund, ...]:
    return (*(r for r in refunds if r.out_refund_no != refund.out_refund_no), refund)


def left(payment: Payment, refunds: Iterable[Refund]) -> int:
    """What of a payment has neither gone back nor is on its way back, in fen."""
    taken = sum(
        r.amount_fen for r in refunds if r.transaction == payment.transaction and r.state is not RefundState.CLOSED
    )
    return payment.amount_fen - taken


def applied(payments: Iterable[Payment]) -> Payment | None:
    """The payment that the order lives on; the database holds that there is at most one."""
    return next((payment for payment in payments if payment.applied), None)


def to_settle(payments: Iterable[Payment], refunds: Sequence[Refund]) -> int:
    """Applied, less what was refunded or is being refunded, in fen."""
    payment = applied(payments)
    return left(payment, refunds) if payment is not None else 0


def refunded(payment: Payment, refunds: Iterable[Refund]) -> int:
    """What of a payment the customer has back, in fen."""
    return sum(r.amount_fen for r in refunds if r.transaction == payment.transaction and r.state is RefundState.SUCCESS)


def going_back(payment: Payment, refunds: Iterable[Refund]) -> int:
    """What of a payment is back or on its way there, in fen; nothing that waits or has got stuck."""
    moving = {RefundState.ASKED, RefundState.SUCCESS}
    return sum(r.amount_fen for r in refunds if r.transaction == payment.transaction and r.state in moving)
