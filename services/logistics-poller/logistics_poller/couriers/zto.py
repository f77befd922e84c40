"""ZTO direct: asked when the aggregator does not answer for a parcel that ZTO carries.

Sources: its open platform's zto.merchant.waybill.track.query, OLTS mappings (zto.csv).
"""

import base64
import hashlib
import json
from datetime import UTC, datetime
from typing import Annotated

import httpx
from pydantic import BaseModel, BeforeValidator, ValidationError

from logistics_poller.tracks import Scan, Track
from orderloop.events import ParcelStatus

from .courier import CourierTrouble, Inquiry, Trouble
from .wire import call

_S = ParcelStatus
# scanType: words in today's answers, numbers in older ones. Anything else is text, not a fact.
STATUSES: dict[str, ParcelStatus] = {
    **dict.fromkeys(("收件", "1", "GOT"), _S.PICKED_UP),
    **dict.fromkeys(("发件", "2", "到件", "3", "转单"), _S.IN_TRANSIT),
    **dict.fromkeys(("派件", "4"), _S.DELIVERING),
    **dict.fromkeys(("签收", "5", "SIGNED"), _S.DELIVERED),
    "退件": _S.RETURNED,
    "问题件": _S.EXCEPTION,
}


class _Site(BaseModel):
    name: str | None = None
    city: str | None = None


class _Entry(BaseModel):
    billCode: str | None = None  # noqa: N815 - its spelling
    scanType: Annotated[str, BeforeValidator(str)]  # noqa: N815
    scanDate: int  # noqa: N815 - milliseconds since 1970, UTC
    scanSite: _Site | None = None  # noqa: N815
    desc: str | None = None


class _Answer(BaseModel):
    status: bool
    result: list[_Entry] | None = None
    statusCode: str | None = None  # noqa: N815


def digest(body: bytes, secret: str) -> str:
    """x-dataDigest: Base64 of the MD5 of body and secret."""
    return base64.b64encode(hashlib.md5(body + secret.encode()).digest()).decode()


class Zto:
    name = "zto"

    def __init__(self, client: httpx.AsyncClient, *, base_url: str, app_key: str, app_secret: str) -> None:
        self._client = client
        self._base_url = base_url
        self._app_key = app_key
        self._secret = app_secret

    async def track(self, inquiry: Inquiry) -> Track:
        question = {"billCode": inquiry.waybill_no, "mobilePhone": inquiry.phone_tail or ""}
        body = json.dumps(question).encode()
        request = self._client.build_request(
            "POST",
            f"{self._base_url}/zto.merchant.waybill.track.query",
            content=body,
            headers={
                "Content-Type": "application/json; charset=UTF-8",
                "x-appKey": self._app_key,
                "x-dataDigest": digest(body, self._secret),
            },
        )
        return read_track(await call(self._client, self.name, request), inquiry.waybill_no)


def read_track(body: bytes, waybill_no: str) -> Track:
    """Raises CourierTrouble for an answer that says nothing about the parcel."""
    try:
        answer = _Answer.model_validate_json(body)
        scans = tuple(_scan(entry) for entry in answer.result or [] if entry.billCode in (None, waybill_no))
    except (ValidationError, OverflowError, ValueError, OSError):
        raise CourierTrouble("zto", Trouble.UNREADABLE, "not its JSON") from None
    if not answer.status:
        raise CourierTrouble("zto", Trouble.REFUSED, f"statusCode {answer.statusCode}")
    return Track("zto", "direct", scans)


def _scan(entry: _Entry) -> Scan:
    site = entry.scanSite or _Site()
    return Scan(
        # whole seconds, as the aggregator tells the same scan: it must be the same fact from either source
        at=datetime.fromtimestamp(entry.scanDate // 1000, UTC),
        status=STATUSES.get(entry.scanType),
        code=entry.scanType,
        text=(entry.desc or "").replace("\0", ""),
        place=site.city or site.name,
    )
