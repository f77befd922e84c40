"""The parcels of an order as order-core needs to know them: which there are, and whether all have arrived."""

from collections.abc import Mapping
from datetime import datetime

from msgspec import Struct
from msgspec.structs import replace

from orderloop.events import ParcelStatus, WaybillCreated

ParcelKey = tuple[str, str]  # express_code, waybill_no

# A late scan of the way never takes back what the courier has declared final.
_FINAL = frozenset({ParcelStatus.DELIVERED, ParcelStatus.RETURNED})
# Nobody follows it any further: signed for, brought back, or lost.
OVER = frozenset({*_FINAL, ParcelStatus.EXHAUSTED})


class Parcel(Struct, frozen=True, gc=False):
    express_code: str
    waybill_no: str
    shipment_id: str
    parcel_no: int
    parcel_count: int  # how many parcels the shipment has altogether
    status: ParcelStatus
    at: datetime  # of the scan that gave the status

    @property
    def has_ended(self) -> bool:
        """Signed for, or brought back: its courier has no more to say."""
        return self.status in _FINAL


def labelled(parcels: Mapping[ParcelKey, Parcel], label: WaybillCreated) -> Mapping[ParcelKey, Parcel]:
    """The parcels with one more label. A label that is known already changes nothing."""
    key = (label.express_code, label.waybill_no)
    if key in parcels:
        return parcels
    parcel = Parcel(
        label.express_code,
        label.waybill_no,
        label.shipment_id,
        label.parcel_no,
        label.parcel_count,
        ParcelStatus.LABEL_PRINTED,
        label.created_at,
    )
    return {**parcels, key: parcel}


def followed(
    parcels: Mapping[ParcelKey, Parcel], key: ParcelKey, status: ParcelStatus, at: datetime
) -> Mapping[ParcelKey, Parcel]:
    """The parcels after one scan. Scans come out of order: only a newer one counts."""
    parcel = parcels[key]
    if parcel.has_ended or (at < parcel.at and status not in _FINAL):
        return parcels
    return {**parcels, key: replace(parcel, status=status, at=at)}


def all_delivered(parcels: Mapping[ParcelKey, Parcel]) -> bool:
    """Whether every parcel that was announced has a label and is signed for."""
    announced = max((parcel.parcel_count for parcel in parcels.values()), default=0)
    return 0 < announced <= len(parcels) and all(p.status is ParcelStatus.DELIVERED for p in parcels.values())


def stuck(parcels: Mapping[ParcelKey, Parcel]) -> bool:
    """Whether nothing more will be heard of any parcel, and at least one has not arrived."""
    return (
        bool(parcels)
        and all(p.status in OVER for p in parcels.values())
        and not all(p.status is ParcelStatus.DELIVERED for p in parcels.values())
    )


def last_signature(parcels: Mapping[ParcelKey, Parcel]) -> datetime | None:
    """When the last parcel was signed for, by the couriers' clocks."""
    return max((p.at for p in parcels.values() if p.status is ParcelStatus.DELIVERED), default=None)
