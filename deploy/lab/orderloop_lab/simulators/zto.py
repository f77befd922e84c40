"""ZTO's own open platform: the track query.

    POST /zto.merchant.waybill.track.query   JSON {"billCode", "mobilePhone"?}
         headers x-appKey, x-dataDigest = Base64(MD5(body + appSecret))
    POST /sim/journeys      see journey.py; only parcels whose courier is "zto" have tracks here
    GET  /sim/ledger/asks   every ask, oldest first

Environment beside the common one: SIM_ZTO_APP_KEY, SIM_ZTO_APP_SECRET.
"""

import base64
import hashlib
import json
import os
import random
from datetime import UTC, datetime
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .journey import Fault, Scan, Step, journey_of, journey_routes
from .ledger import Simulator, run

_TELLS = {
    Step.LABEL: ("下单", "商家已下单"),
    Step.PICKUP: ("收件", "快件已由网点收件"),
    Step.DEPARTURE: ("发件", "快件已发往转运中心"),
    Step.ARRIVAL: ("到件", "快件已到达"),
    Step.DELIVERING: ("派件", "快递员正在派件"),
    Step.SIGNED: ("签收", "快件已签收"),
    Step.RETURNED: ("退件", "快件已退回"),
}


def build(sim: Simulator) -> Starlette:
    app_key, secret = os.environ["SIM_ZTO_APP_KEY"], os.environ["SIM_ZTO_APP_SECRET"]

    async def query(request: Request) -> Response:
        body = await request.body()
        digest = base64.b64encode(hashlib.md5(body + secret.encode()).digest()).decode()
        if request.headers.get("x-appKey") != app_key or request.headers.get("x-dataDigest") != digest:
            return _refuse("S201", "签名校验失败")
        try:
            waybill_no = str(json.loads(body)["billCode"])
        except (ValueError, KeyError, TypeError):
            return _refuse("S101", "参数错误")
        now = datetime.now(UTC)
        sim.ledger.append("ask", waybill_no, {"waybill_no": waybill_no, "at": now.isoformat()})
        journey = journey_of(sim, waybill_no)
        if journey is not None and Fault.DIRECT_DOWN in journey.faults:
            return Response("Service Unavailable", status_code=503)
        if journey is None or journey.courier != "zto":
            return _answer([])
        entries = [_entry(waybill_no, scan) for scan in journey.scans(sim, now)]
        if Fault.OUT_OF_ORDER in journey.faults:
            random.Random(waybill_no).shuffle(entries)
        return _answer(entries)

    async def asks(_: Request) -> Response:
        return JSONResponse(sim.ledger.lines("ask"))

    return Starlette(
        routes=[
            Route("/zto.merchant.waybill.track.query", query, methods=["POST"]),
            Route("/sim/ledger/asks", asks, methods=["GET"]),
            *journey_routes(sim),
        ]
    )


def _entry(waybill_no: str, scan: Scan) -> dict[str, Any]:
    scan_type, text = _TELLS[scan.step]
    return {
        "billCode": waybill_no,
        "scanType": scan_type,
        "scanDate": int(scan.at.timestamp() * 1000),
        "scanSite": {"name": f"{scan.city}网点", "city": scan.city, "prov": ""},
        "desc": text,
    }


def _answer(entries: list[dict[str, Any]]) -> Response:
    return JSONResponse({"status": True, "result": entries, "message": "", "statusCode": "SYS000"})


def _refuse(code: str, message: str) -> Response:
    return JSONResponse({"status": False, "result": None, "message": message, "statusCode": code})


if __name__ == "__main__":
    run("zto", build)
