"""Parcels: asked for by order-core, made and followed by logistics-poller or an outside warehouse."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, ClassVar, Literal

from msgspec import Meta
from pydantic import ConfigDict, Field

from orderloop import topics

from .event import Count, Event, Text, Time


class ParcelStatus(StrEnum):
    LABEL_PRINTED = "label_printed"  # 已打单未揽收: a label is not a pickup
    PICKED_UP = "picked_up"
    IN_TRANSIT = "in_transit"
    DELIVERING = "delivering"
    DELIVERED = "delivered"
    EXCEPTION = "exception"
    RETURNED = "returned"
    SILENT = "silent"  # 24 hours without a track
    EXHAUSTED = "exhausted"  # asked for as long as the schedule allows


# What the shop sends us as well, through a form: dataclasses, because FastAPI knows them. Unknown fields are tolerated
# there as here, whatever the form around them says. How much may be said is the form's business alone (by pydantic's
# Field): an event that was published once can always be read.
_TOLERANT = ConfigDict(extra="ignore")
_Line = Annotated[Text, Field(max_length=256)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    __pydantic_config__: ClassVar[ConfigDict] = _TOLERANT

    sku: _Line
    name: _Line
    quantity: Annotated[Count, Field(ge=1, le=1_000_000)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Receiver:
    """Personal data: travels to the warehouse, never into a log or a trace."""

    __pydantic_config__: ClassVar[ConfigDict] = _TOLERANT

    name: _Line
    phone: _Line
    region: _Line
    address: Annotated[Text, Field(max_length=1024)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Where from and with whom, as routing decided."""

    warehouse: Text
    express_code: Text


class ShipmentRequested(Event, frozen=True, kw_only=True):
    """One accepted ship request. Id: `{shipment_id}:requested`."""

    TOPIC: ClassVar[str] = topics.SHIPMENT_REQUESTED

    shipment_id: Text
    decision: Decision
    items: tuple[Item, ...]
    receiver: Receiver


class WaybillCreated(Event, frozen=True, kw_only=True):
    """A label was printed. Any warehouse may publish it.

    The order becomes `delivered` when `parcel_count` parcels have a label and all are signed for, so each label of
    several parcels has to say how many. Id: `{shipment_id}:waybill:{waybill_no}`. A warehouse of somebody else
    chooses one that names the label, the same when it is sent again, such as `label:{waybill_no}`: it counts as
    `{ce_source}#{ce_id}`.
    """

    TOPIC: ClassVar[str] = topics.WAYBILL_CREATED

    shipment_id: Text
    express_code: Text
    waybill_no: Text
    warehouse: Text
    parcel_no: Count = 1  # which of them, from 1
    parcel_count: Annotated[int, Meta(ge=1, le=999)] = 1  # how many the order has altogether
    created_at: Time


class PickupDetected(Event, frozen=True, kw_only=True):
    """The courier has the parcel, by the courier's own event. Id: `{express_code}:{waybill_no}:picked_up`."""

    TOPIC: ClassVar[str] = topics.PICKUP_DETECTED

    express_code: Text
    waybill_no: Text
    picked_up_at: Time
    place: Text | None = None
    source: Literal["push", "poll", "aggregator", "direct"]


class ParcelTracked(Event, frozen=True, kw_only=True):
    """A parcel's status changed."""

    TOPIC: ClassVar[str] = topics.PARCEL_TRACKED

    express_code: Text
    waybill_no: Text
    status: ParcelStatus
    at: Time
    place: Text | None = None
    text: Text | None = None


class TrackingRequested(Event, frozen=True, kw_only=True):
    """A parcel that nobody asks for any more, or that is silent, is to be asked for anew, for as long as a new one.

    Id: `{express_code}:{waybill_no}:tracking-requested:{the order's version}`.
    """

    TOPIC: ClassVar[str] = topics.TRACKING_REQUESTED

    express_code: Text
    waybill_no: Text
    requested_at: Time
