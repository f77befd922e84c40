"""Kuaidi100, the aggregator: track query, courier recognition, and the lock of a waybill that was asked too often.

    POST /poll/query.do      form customer, sign, param     (sign is checked as the real one checks it)
    GET|POST /autonumber/auto?num=&key=                     智能识别
    POST /sim/journeys       see journey.py
    POST /sim/faults         {"mode": "down" | "busy" | "html" | "slow" | "too_many", "times": n, "seconds"?: s}
    GET  /sim/ledger/asks    {waybill_no: {"asks", "most_in_24h", "locked"}}; ?waybill_no= gives every single ask

Environment beside the common one: SIM_KUAIDI100_CUSTOMER, SIM_KUAIDI100_KEY.
What a locked waybill answers is not documented beyond "no updates for 24 h": here it answers what it knew at the lock.
"""

import asyncio
import hashlib
import json
import os
import random
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from urllib.parse import parse_qsl

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from .journey import Fault, Journey, Scan, Step, journey_of, journey_routes
from .ledger import Simulator, run

BEIJING = timezone(timedelta(hours=8))
MOST_ASKS = 48  # in 24 hours; one more locks the waybill for 24 hours

COURIERS = {
    "shunfeng": "sf",
    "jd": "jd",
    "zhongtong": "zto",
    "yuantong": "yto",
    "shentong": "sto",
    "yunda": "yunda",
    "jtexpress": "jt",
    "ems": "ems",
    "youzhengguonei": "post",
    "debangkuaidi": "deppon",
    "huitongkuaidi": "best",
    "zhaijisong": "zjs",
}
COM_OF = {courier: com for com, courier in COURIERS.items()}
ASK_FOR_PHONE = {"shunfeng", "zhongtong"}

# step → basic state, advanced status code, status name, text
_TELLS = {
    Step.LABEL: ("1", "101", "已下单", "商家已下单，等待揽收"),
    Step.PICKUP: ("1", "103", "已揽收", "快件已由网点揽收"),
    Step.DEPARTURE: ("0", "1002", "干线", "快件已发往转运中心"),
    Step.ARRIVAL: ("0", "1001", "到达派件城市", "快件已到达派件网点"),
    Step.DELIVERING: ("5", "5", "派件", "快递员正在派送"),
    Step.SIGNED: ("3", "301", "本人签收", "快件已签收，感谢使用"),
    Step.RETURNED: ("6", "6", "退回", "收件人拒收，快件退回"),
}

_REFUSALS = {
    "400": "提交的数据不完整，或者贵公司没授权",
    "408": "快递单号或收件人电话不符",
    "500": "查询无结果，请隔段时间再查",
    "502": "服务器繁忙，请稍后重试",
    "503": "验证签名失败",
    "601": "POLL:KEY已过期",
}


def build(sim: Simulator) -> Starlette:
    aggregator = _Aggregator(sim, os.environ["SIM_KUAIDI100_CUSTOMER"], os.environ["SIM_KUAIDI100_KEY"])
    return Starlette(
        routes=[
            Route("/poll/query.do", aggregator.query, methods=["POST"]),
            Route("/autonumber/auto", aggregator.recognise, methods=["GET", "POST"]),
            Route("/sim/faults", aggregator.fault, methods=["POST"]),
            Route("/sim/ledger/asks", aggregator.asks, methods=["GET"]),
            *journey_routes(sim),
        ]
    )


class _Aggregator:
    def __init__(self, sim: Simulator, customer: str, key: str) -> None:
        self._sim = sim
        self._customer = customer
        self._key = key
        self._window = timedelta(seconds=sim.delay(24 * 3600))

    async def query(self, request: Request) -> Response:
        form = dict(parse_qsl((await request.body()).decode(errors="replace")))
        customer, sign, text = (form.get(name, "") for name in ("customer", "sign", "param"))
        if trouble := await self._planned_fault():
            return trouble
        if not (customer and sign and text):
            return _refuse("400")
        if customer != self._customer:
            return _refuse("601")
        if sign != hashlib.md5(f"{text}{self._key}{customer}".encode()).hexdigest().upper():
            return _refuse("503")
        try:
            param = json.loads(text)
            com, num = str(param["com"]), str(param["num"])
        except (ValueError, KeyError, TypeError):
            return _refuse("400")
        if com not in COURIERS or not 6 <= len(num) <= 32:
            return _refuse("400")
        return self._answer(com, num, str(param.get("phone") or ""))

    def _answer(self, com: str, num: str, phone: str) -> Response:
        now = datetime.now(UTC)
        told_until = self._note_ask(num, com, now)
        journey = journey_of(self._sim, num)
        if journey is None:
            return _refuse("500")
        if Fault.AGGREGATOR_DOWN in journey.faults:
            return _refuse("502")
        if Fault.AGGREGATOR_HTML in journey.faults:
            return _a_page()
        if COM_OF.get(journey.courier) != com:
            return _refuse("500")  # another courier's number: nothing is known of it
        if journey.phone_tail and com in ASK_FOR_PHONE and not phone.endswith(journey.phone_tail):
            return _refuse("408")
        scans = journey.scans(self._sim, told_until)
        return _track(journey, com, scans) if scans else _refuse("500")

    def _note_ask(self, num: str, com: str, now: datetime) -> datetime:
        """Count the ask; answer until when tracks may be told: now, or the moment at which the waybill was locked."""
        self._sim.ledger.append("ask", num, {"waybill_no": num, "com": com, "at": now.isoformat()})
        recent = [at for at in self._ask_times(num) if at > now - self._window]
        lock = self._sim.ledger.get("lock", num)
        if lock and now < datetime.fromisoformat(lock["at"]) + self._window:
            return datetime.fromisoformat(lock["at"])
        if len(recent) > MOST_ASKS:
            self._sim.ledger.put("lock", num, {"waybill_no": num, "at": now.isoformat()})
        return now

    def _ask_times(self, num: str) -> list[datetime]:
        return [datetime.fromisoformat(line["at"]) for line in self._sim.ledger.lines("ask", num)]

    async def recognise(self, request: Request) -> Response:
        if request.query_params.get("key") != self._key:
            return _refuse("601")
        num = request.query_params.get("num", "")
        journey = journey_of(self._sim, num)
        if journey is None or journey.courier not in COM_OF:
            return JSONResponse([])
        com = COM_OF[journey.courier]
        guess = "jd" if com != "jd" else "ems"  # the real one also names less likely couriers
        likely = [{"comCode": com, "noCount": 9000}, {"comCode": guess, "noCount": 12}]
        return JSONResponse([{"lengthPre": len(num), "noPre": num[:4], "name": "", **each} for each in likely])

    async def fault(self, request: Request) -> Response:
        given = await request.json()
        if given.get("mode") not in {"down", "busy", "html", "slow", "too_many"}:
            return JSONResponse({"error": "unknown mode"}, status_code=400)
        self._sim.ledger.put("fault", "next", {"mode": given["mode"], "times": int(given.get("times", 1)), **given})
        return JSONResponse({"planned": given})

    async def _planned_fault(self) -> Response | None:
        fault = self._sim.ledger.get("fault", "next")
        if fault is None or fault["times"] <= 0:
            return None
        self._sim.ledger.put("fault", "next", {**fault, "times": fault["times"] - 1})
        match fault["mode"]:
            case "down":
                return Response("Bad Gateway", status_code=502)
            case "busy":
                return _refuse("502")
            case "html":
                return _a_page()
            case "too_many":
                return Response("Too Many Requests", status_code=429)
            case _:
                await asyncio.sleep(float(fault.get("seconds", 30)))
                return None

    async def asks(self, request: Request) -> Response:
        if one := request.query_params.get("waybill_no"):
            return JSONResponse(self._sim.ledger.lines("ask", one))
        waybills = sorted({line["waybill_no"] for line in self._sim.ledger.lines("ask")})
        return JSONResponse(
            {
                num: {
                    "asks": len(times := self._ask_times(num)),
                    "most_in_24h": _most_within(times, self._window),
                    "locked": self._sim.ledger.get("lock", num) is not None,
                }
                for num in waybills
            }
        )


def _most_within(times: list[datetime], window: timedelta) -> int:
    return max((sum(1 for other in times if 0 <= (other - at) / window < 1) for at in times), default=0)


def _track(journey: Journey, com: str, scans: list[Scan]) -> Response:
    data = [_entry(scan) for scan in reversed(scans)]  # newest first, as the real one
    if Fault.OUT_OF_ORDER in journey.faults:
        random.Random(journey.waybill_no).shuffle(data)
    last = _TELLS[scans[-1].step]
    return JSONResponse(
        {
            "message": "ok",
            "nu": journey.waybill_no,
            "ischeck": "1" if scans[-1].step is Step.SIGNED else "0",
            "com": com,
            "status": "200",
            "state": last[0],
            "condition": "00",
            "data": data,
            "isLoop": False,
        }
    )


def _entry(scan: Scan) -> dict[str, Any]:
    _, code, name, text = _TELLS[scan.step]
    time = scan.at.astimezone(BEIJING).strftime("%Y-%m-%d %H:%M:%S")
    return {
        "time": time,
        "ftime": time,
        "context": f"【{scan.city}】{text}",
        "areaName": scan.city,
        "status": name,
        "statusCode": code,
        "location": "",
    }


def _refuse(code: str) -> Response:
    return JSONResponse({"result": False, "returnCode": code, "message": _REFUSALS[code]})


def _a_page() -> Response:
    return HTMLResponse("<!DOCTYPE html><html><body><h1>系统维护中</h1></body></html>")


if __name__ == "__main__":
    run("kuaidi100", build)
