"""What the payment channels told us (by payment-callback alone), and what order-core asks them through it."""

from enum import StrEnum
from typing import Any, ClassVar, Literal

from msgspec import field

from orderloop import topics
from orderloop.money import Fen

from .event import Event, Text, Time


class PaymentNotified(Event, frozen=True, kw_only=True):
    """A channel's authentic word that an order was paid. Id: `{channel}:{transaction_id}:paid`."""

    TOPIC: ClassVar[str] = topics.PAYMENT_NOTIFIED

    channel: Text
    mchid: Text
    transaction_id: Text
    trade_state: Text
    amount_fen: Fen
    payer_total_fen: Fen
    currency: Text
    paid_at: Time
    source: Literal["callback", "repair"]


class RefundNotified(Event, frozen=True, kw_only=True):
    """A channel's word on one refund. Id: `{channel}:{refund_id}:refunded`."""

    TOPIC: ClassVar[str] = topics.REFUND_NOTIFIED

    channel: Text
    transaction_id: Text
    refund_id: Text
    out_refund_no: Text
    refund_status: Text
    refund_fen: Fen
    total_fen: Fen
    finished_at: Time | None = None


class CloseRequested(Event, frozen=True, kw_only=True):
    """Close the unpaid order at the channel, after asking it whether it is unpaid. Id: `{order_no}:close:{n}`."""

    TOPIC: ClassVar[str] = topics.CLOSE_REQUESTED

    channel: Text | None = None  # None: nobody knows where the customer would have paid, so ask every channel
    mchid: Text | None = None
    transaction_ids: tuple[Text, ...] = ()  # known already
    amount_fen: Fen


class CloseOutcome(StrEnum):
    CLOSED = "closed"  # no channel can take the money any more
    PAID = "paid"  # a channel says that it was paid: evidence, not the payment itself
    UNKNOWN = "unknown"  # a channel did not answer; ask again


class CloseResult(Event, frozen=True, kw_only=True):
    """What the channels said to a close. Id: that of the request, and `:result`; for the one that says unknown, while
    they are being asked again, `:unknown`."""

    TOPIC: ClassVar[str] = topics.CLOSE_RESULT

    result: CloseOutcome
    channel: Text | None = None  # the one that decided
    evidence: dict[str, Any] = field(default_factory=dict[str, Any])  # the channel's answer, without personal data


class RefundRequested(Event, frozen=True, kw_only=True):
    """Give money back. The same out_refund_no until the outcome is known. Id: `{out_refund_no}:requested`."""

    TOPIC: ClassVar[str] = topics.REFUND_REQUESTED

    channel: Text
    mchid: Text
    transaction_id: Text
    out_refund_no: Text
    refund_fen: Fen
    total_fen: Fen
    reason: Text
