"""What order-core tells the world, and what anybody may tell its desk."""

from typing import Any, ClassVar

from msgspec import Struct, field

from orderloop import topics
from orderloop.money import Fen

from .event import Count, Event, Text, Time


class Cause(Struct, frozen=True):
    """Why an order changed: the event's id and what it was."""

    event_id: Text
    type: Text  # a topic, or a command's name


class OrderChanged(Event, frozen=True, kw_only=True):
    """One step of an order's life. Versions of an order count from 1 without a gap. Id: `{order_no}:{version}`."""

    TOPIC: ClassVar[str] = topics.ORDER_CHANGED

    version: Count
    from_: Text | None = field(name="from")  # a status of docs/order-states.md; null for version 1, the reservation
    to: Text  # a status of docs/order-states.md; the same as before if the event is only noted
    cause: Cause
    at: Time
    actor: Text  # a `ce_source`, or who called
    amount_fen: Fen
    channel: Text | None = None
    mchid: Text | None = None


class AnomalyRaised(Event, frozen=True, kw_only=True):
    """Something that a person should see. Evidence, never the fact itself: it changes no order."""

    TOPIC: ClassVar[str] = topics.ANOMALY_RAISED

    kind: Text
    evidence: dict[str, Any]
    money_fen: Fen = 0
    raised_at: Time
