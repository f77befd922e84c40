"""The events of the house, one class per topic (docs/events.md is generated from them)."""

from .event import Event
from .order import AnomalyRaised, Cause, OrderChanged
from .parcel import (
    Decision,
    Item,
    ParcelStatus,
    ParcelTracked,
    PickupDetected,
    Receiver,
    ShipmentRequested,
    TrackingRequested,
    WaybillCreated,
)
from .payment import CloseOutcome, CloseRequested, CloseResult, PaymentNotified, RefundNotified, RefundRequested
from .settlement import SettlementRequested, SettlementResult, SettlementStatus

BY_TOPIC: dict[str, type[Event]] = {
    event.TOPIC: event
    for event in (
        PaymentNotified,
        RefundNotified,
        WaybillCreated,
        PickupDetected,
        ParcelTracked,
        SettlementResult,
        ShipmentRequested,
        SettlementRequested,
        CloseRequested,
        CloseResult,
        RefundRequested,
        TrackingRequested,
        AnomalyRaised,
        OrderChanged,
    )
}

__all__ = [
    "BY_TOPIC",
    "AnomalyRaised",
    "Cause",
    "CloseOutcome",
    "CloseRequested",
    "CloseResult",
    "Decision",
    "Event",
    "Item",
    "OrderChanged",
    "ParcelStatus",
    "ParcelTracked",
    "PaymentNotified",
    "PickupDetected",
    "Receiver",
    "RefundNotified",
    "RefundRequested",
    "SettlementRequested",
    "SettlementResult",
    "SettlementStatus",
    "ShipmentRequested",
    "TrackingRequested",
    "WaybillCreated",
]
