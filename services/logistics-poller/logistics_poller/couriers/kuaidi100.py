"""Kuaidi100, the aggregator: asked first for every courier, under the code that its recognition finds.

Sources: its Java demo (QueryTrackParam, QueryTrackResp, AutoNum) and api.kuaidi100.com/document.
"""

import hashlib
import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Annotated

import httpx
import structlog
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from logistics_poller.tracks import Scan, Track
from orderloop.events import ParcelStatus

from .courier import CourierTrouble, Inquiry, Trouble
from .wire import call

log = structlog.get_logger()

_BEIJING = timezone(timedelta(hours=8))  # its times carry no offset

CODES = {
    "sf": "shunfeng",
    "jd": "jd",
    "zto": "zhongtong",
    "yto": "yuantong",
    "sto": "shentong",
    "yunda": "yunda",
    "jt": "jtexpress",
    "ems": "ems",
    "post": "youzhengguonei",
    "deppon": "debangkuaidi",
    "best": "huitongkuaidi",
    "zjs": "zhaijisong",
}
HOUSE_CODES = {code: express_code for express_code, code in CODES.items()}

_S = ParcelStatus
# data[].statusCode. The group of state 1 (collected) holds 101 ordered and 102 waiting: neither is a pickup.
STATUSES: dict[str, ParcelStatus] = {
    **dict.fromkeys(("101", "102"), _S.LABEL_PRINTED),
    **dict.fromkeys(("1", "103"), _S.PICKED_UP),
    **dict.fromkeys(("0", "1001", "1002", "1003", "7", "8", "10", "11", "12"), _S.IN_TRANSIT),
    **dict.fromkeys(("5", "501"), _S.DELIVERING),  # 501: in a locker or a shop, not yet in anybody's hands
    **dict.fromkeys(("3", "301", "302", "303", "304"), _S.DELIVERED),
    **dict.fromkeys(("4", "6"), _S.RETURNED),
    **dict.fromkeys(("2", "13", "14", "401"), _S.EXCEPTION),
    **{str(code): _S.EXCEPTION for code in range(201, 211)},
}

_TROUBLES = {
    "400": Trouble.REFUSED,
    "408": Trouble.REFUSED,  # the receiver's telephone does not fit
    "501": Trouble.BUSY,
    "502": Trouble.BUSY,
    "503": Trouble.MISCONFIGURED,  # signature
    "601": Trouble.MISCONFIGURED,  # key expired, or no money left
}
_NOTHING_YET = "500"


class _Entry(BaseModel):
    ftime: str = Field(alias="ftime")
    context: str = ""
    statusCode: str | None = None  # noqa: N815 - its spelling
    areaName: str | None = None  # noqa: N815


class _Answer(BaseModel):
    status: str | None = None
    returnCode: str | None = None  # noqa: N815
    message: str = ""
    com: str | None = None
    nu: str | None = None
    data: list[_Entry] = []


class _Guess(BaseModel):
    comCode: Annotated[str, Field(min_length=1, max_length=64)]  # noqa: N815


_guesses = TypeAdapter(list[_Guess])


def signature(param: str, *, key: str, customer: str) -> str:
    """Over the exact text that is sent as `param`."""
    return hashlib.md5(f"{param}{key}{customer}".encode()).hexdigest().upper()


class Kuaidi100:
    name = "kuaidi100"

    def __init__(
        self, client: httpx.AsyncClient, *, base_url: str, recognition_url: str, customer: str, key: str
    ) -> None:
        self._client = client
        self._base_url = base_url
        self._recognition_url = recognition_url
        self._customer = customer
        self._key = key

    async def track(self, inquiry: Inquiry) -> Track:
        code = inquiry.recognised_as or await self._recognise(inquiry)
        param = {"com": code, "num": inquiry.waybill_no, "resultv2": "4", "show": "0", "order": "desc"}
        if inquiry.phone_tail:
            param["phone"] = inquiry.phone_tail
        text = json.dumps(param)
        form = {
            "customer": self._customer,
            "sign": signature(text, key=self._key, customer=self._customer),
            "param": text,
        }
        request = self._client.build_request("POST", f"{self._base_url}/poll/query.do", data=form)
        return read_track(await call(self._client, self.name, request), inquiry.waybill_no, asked_as=code)

    async def _recognise(self, inquiry: Inquiry) -> str:
        """The code to ask under: the label's own if recognition holds it possible, else its best guess.

        Recognition is advice: when it fails, the label is believed.
        """
        told = CODES.get(inquiry.express_code, inquiry.express_code)
        request = self._client.build_request(
            "GET", f"{self._recognition_url}/autonumber/auto", params={"num": inquiry.waybill_no, "key": self._key}
        )
        try:
            guesses = [guess.comCode for guess in _guesses.validate_json(await call(self._client, self.name, request))]
        except (CourierTrouble, ValidationError) as error:
            log.info("courier not recognised", waybill_no=inquiry.waybill_no, error=type(error).__name__)
            return told
        if not guesses or told in guesses:
            return told
        log.warning("courier corrected", waybill_no=inquiry.waybill_no, told=told, recognised=guesses[0])
        return guesses[0]


def read_track(body: bytes, waybill_no: str, *, asked_as: str) -> Track:
    """The answer to a query. Raises CourierTrouble for an answer that says nothing about the parcel."""
    try:
        answer = _Answer.model_validate_json(body)
    except ValidationError:
        raise CourierTrouble("kuaidi100", Trouble.UNREADABLE, "not its JSON") from None
    if answer.returnCode == _NOTHING_YET:
        return Track("kuaidi100", "aggregator", ())
    if answer.status != "200":
        code = answer.returnCode or answer.status or "none"
        # How a lock is told is not documented; the word for it is.
        trouble = Trouble.LOCKED if "锁" in answer.message else _TROUBLES.get(code, Trouble.BUSY)
        raise CourierTrouble("kuaidi100", trouble, f"returnCode {code}")
    if answer.nu not in (None, waybill_no):
        raise CourierTrouble("kuaidi100", Trouble.UNREADABLE, "an answer about another waybill")
    try:
        scans = tuple(_scan(entry) for entry in answer.data)
    except ValueError:
        raise CourierTrouble("kuaidi100", Trouble.UNREADABLE, "a scan without a time") from None
    return Track("kuaidi100", "aggregator", scans, recognised_as=answer.com or asked_as)


def _scan(entry: _Entry) -> Scan:
    code = entry.statusCode or ""
    return Scan(
        at=datetime.strptime(entry.ftime, "%Y-%m-%d %H:%M:%S").replace(tzinfo=_BEIJING).astimezone(UTC),
        status=STATUSES.get(code),
        code=code,
        text=entry.context.replace("\0", ""),
        place=entry.areaName,
    )
