"""The warehouse's interface: one outbound order per shipment, which brings the electronic waybills with it."""

import json
from dataclasses import dataclass
from datetime import datetime

import httpx
from pydantic import AwareDatetime, BaseModel, Field, ValidationError

from orderloop.errors import Permanent, Transient

from .store import DueShipment

# They ask to come again: time-out, locked by our own earlier call, too early, too many.
_COME_AGAIN = {408, 409, 423, 425, 429}


class WarehouseSilent(Transient):
    """No answer that says whether it ships. The same call, with the same key, until there is one."""


class WarehouseRefuses(Permanent):
    """It will not ship this, however often it is asked."""


class Printed(BaseModel):
    """One parcel's label."""

    express_code: str = Field(min_length=1, max_length=32)
    waybill_no: str = Field(pattern=r"^[0-9A-Za-z-]{4,40}$")
    parcel_no: int = Field(ge=1)
    parcel_count: int = Field(ge=1, le=999)


class _Answer(BaseModel):
    shipment_no: str = Field(max_length=64)
    accepted_at: AwareDatetime
    parcels: list[Printed] = Field(min_length=1)


class _Refusal(BaseModel):
    code: str = "UNNAMED"
    message: str = ""


@dataclass(frozen=True, slots=True)
class Accepted:
    shipment_no: str
    accepted_at: datetime
    parcels: tuple[Printed, ...]


class Warehouse:
    def __init__(self, client: httpx.AsyncClient, *, base_url: str) -> None:
        self._client = client
        self._base_url = base_url

    async def outbound(self, shipment: DueShipment) -> Accepted:
        """Have a shipment made. A repeated call is the same call: the key and the body are the shipment's.

        Raises WarehouseSilent (unknown: repeat) or WarehouseRefuses (never).
        """
        body = {
            "order_no": shipment.order_no,
            "shipment_id": shipment.shipment_id,
            "warehouse": shipment.warehouse,
            "express_code": shipment.express_code,
            **json.loads(shipment.request),
        }
        headers = {"Idempotency-Key": shipment.shipment_id}
        try:
            response = await self._client.post(f"{self._base_url}/outbound", json=body, headers=headers)
        except httpx.HTTPError as error:
            raise WarehouseSilent(type(error).__name__) from error
        if 400 <= response.status_code < 500 and response.status_code not in _COME_AGAIN:
            raise WarehouseRefuses(_reason(response))
        if not response.is_success:
            raise WarehouseSilent(f"HTTP {response.status_code}")
        try:
            answer = _Answer.model_validate_json(response.content)
        except ValidationError:
            raise WarehouseSilent("an answer that is none") from None
        return Accepted(answer.shipment_no, answer.accepted_at, tuple(answer.parcels))


def _reason(response: httpx.Response) -> str:
    try:
        refusal = _Refusal.model_validate_json(response.content)
    except ValidationError:
        return f"HTTP {response.status_code}"
    return f"{refusal.code}: {refusal.message}"[:200]
