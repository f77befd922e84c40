"""What the payment channels told us. Published by payment-callback alone."""

from typing import ClassVar, Literal

from orderloop import topics
from orderloop.money import Fen

from .event import Event, Text, Time


class PaymentNotified(Event):
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


class RefundNotified(Event):
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
