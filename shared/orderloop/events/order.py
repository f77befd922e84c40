"""What order-core tells the world, and what anybody may tell its desk."""

from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from orderloop import topics
from orderloop.money import Fen

from .event import Event, Text, Time


class Cause(BaseModel):
    """Why an order changed: the event's id and what it was."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    event_id: Text
    type: Text


class OrderChanged(Event):
    """One step of an order's life. Versions of an order count from 1 without a gap. Id: `{order_no}:{version}`."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    TOPIC: ClassVar[str] = topics.ORDER_CHANGED

    version: Annotated[int, Field(ge=1)]
    from_: Annotated[Text | None, Field(alias="from")]  # null for version 1: the order was reserved
    to: Text
    cause: Cause
    at: Time
    actor: Text
    amount_fen: Fen
    channel: Text | None = None
    mchid: Text | None = None


class AnomalyRaised(Event):
    """Something that a person should see. Evidence, never the fact itself: it changes no order."""

    TOPIC: ClassVar[str] = topics.ANOMALY_RAISED

    kind: Text
    evidence: dict[str, Any]
    money_fen: Fen = 0
    raised_at: Time
