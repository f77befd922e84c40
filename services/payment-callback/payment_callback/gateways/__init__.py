"""One module per payment channel that we can ask: queries, closes and refunds, each answer verified."""

from .gateway import (
    Closed,
    Gateway,
    GatewayRefuses,
    GatewaySilent,
    Paid,
    Refund,
    RefundAsked,
    RefundState,
    Standing,
    Trade,
    Unpaid,
)

__all__ = [
    "Closed",
    "Gateway",
    "GatewayRefuses",
    "GatewaySilent",
    "Paid",
    "Refund",
    "RefundAsked",
    "RefundState",
    "Standing",
    "Trade",
    "Unpaid",
]
