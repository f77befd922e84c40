"""The warehouse: takes outbound orders, prints the electronic waybill in the same step, hands parcels to couriers.

    POST /outbound                  JSON, header Idempotency-Key; a repeated key answers the same shipment,
                                    another body under the same key 422 IDEMPOTENCY_KEY_REUSED
    POST /outbound/{key}/cancel     the shipment is active no longer
    POST /sim/orders/{order_no}     before it ships: {"parcels"?: n, "courier"?: who really carries it,
                                     "journey"?: [faults of journey.py]}
    POST /sim/faults                {"mode": "error" | "slow" | "html" | "lost_answer" | "refuse", "times"?: n,
                                     "order_no"?: only for it, "seconds"?: for slow}
    POST /sim/plant                 {"order_no", "shipment_id"}: one more active shipment, however wrong that is
    GET  /sim/ledger/calls[?order_no=]   every call and what it was answered: the access log
    GET  /sim/ledger/shipments           what was accepted, oldest first
    GET  /sim/ledger/active              {order_no: [shipment_id …]} of the active ones

An accepted parcel is told to the courier simulators (SIM_WMS_COURIER_URLS, split by commas) by POST /sim/journeys, in
the background and until they have taken it.
"""

import asyncio
import hashlib
import json
import os
from collections import defaultdict
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from .ledger import Simulator, run

_MODES = {"error", "slow", "html", "lost_answer", "refuse"}
_NEEDED = ("order_no", "shipment_id", "warehouse", "express_code", "items", "receiver")


def build(sim: Simulator) -> Starlette:
    urls = [url for url in os.environ.get("SIM_WMS_COURIER_URLS", "").split(",") if url]
    warehouse = _Warehouse(sim, urls)
    return Starlette(
        routes=[
            Route("/outbound", warehouse.outbound, methods=["POST"]),
            Route("/outbound/{key}/cancel", warehouse.cancel, methods=["POST"]),
            Route("/sim/orders/{order_no}", warehouse.preset, methods=["POST"]),
            Route("/sim/faults", warehouse.fault, methods=["POST"]),
            Route("/sim/plant", warehouse.plant, methods=["POST"]),
            Route("/sim/ledger/calls", warehouse.calls, methods=["GET"]),
            Route("/sim/ledger/shipments", warehouse.shipments, methods=["GET"]),
            Route("/sim/ledger/active", warehouse.active, methods=["GET"]),
        ],
        lifespan=warehouse.handing_over,
    )


class _Warehouse:
    def __init__(self, sim: Simulator, courier_urls: list[str]) -> None:
        self._sim = sim
        self._ledger = sim.ledger
        self._courier_urls = courier_urls
        self._untold: dict[str, dict[str, Any]] = {}  # by idempotency key
        self._accepted = asyncio.Event()

    async def outbound(self, request: Request) -> Response:
        key = request.headers.get("Idempotency-Key", "")
        raw = await request.body()
        try:
            order = json.loads(raw)
            missing = [name for name in _NEEDED if not order.get(name)]
        except (ValueError, AttributeError):
            return self._answered(key, "", _refuse(400, "MALFORMED", "not a JSON object"))
        order_no = str(order.get("order_no", ""))
        if not key or missing:
            return self._answered(key, order_no, _refuse(400, "MISSING", ", ".join(missing) or "Idempotency-Key"))
        mode = self._next_fault(order_no)
        match mode and mode["mode"]:
            case "error":
                return self._answered(key, order_no, _refuse(503, "BUSY", "try again"))
            case "refuse":
                return self._answered(key, order_no, _refuse(422, "OUT_OF_STOCK", "nothing left to pick"))
            case "html":
                return self._answered(key, order_no, HTMLResponse("<html><body>maintenance</body></html>"))
            case "slow":
                await asyncio.sleep(float((mode or {}).get("seconds", 30)))
            case _:
                pass
        answer = self._accept(key, order)
        if mode and mode["mode"] == "lost_answer":
            answer = _refuse(500, "LOST", "accepted, and the answer was lost")
        return self._answered(key, order_no, answer)

    def _accept(self, key: str, order: dict[str, Any]) -> Response:
        fingerprint = hashlib.sha256(json.dumps(order, sort_keys=True).encode()).hexdigest()
        with self._ledger.transaction():
            shipment = self._ledger.get("shipment", key)
            if shipment is None:
                shipment = self._print(key, order, fingerprint)
                self._ledger.add("shipment", key, shipment)
                self._untold[key] = shipment
                self._accepted.set()
        if shipment["fingerprint"] != fingerprint:
            return _refuse(422, "IDEMPOTENCY_KEY_REUSED", "this key came with another body before")
        shown = ("shipment_no", "status", "accepted_at", "parcels")
        return JSONResponse({name: shipment[name] for name in shown})

    def _print(self, key: str, order: dict[str, Any], fingerprint: str) -> dict[str, Any]:
        preset = self._ledger.get("preset", order["order_no"]) or {}
        count = int(preset.get("parcels", 1))
        phone = str(order["receiver"].get("phone", ""))
        return {
            "key": key,
            "shipment_no": f"WMS{self._number(key, 0)}",
            "shipment_id": order["shipment_id"],
            "order_no": order["order_no"],
            "status": "accepted",
            "active": True,
            "accepted_at": datetime.now(UTC).isoformat(),
            "fingerprint": fingerprint,
            "phone_tail": phone[-4:],
            "parcels": [
                {
                    "express_code": order["express_code"],
                    "waybill_no": self._waybill_no(order["express_code"], key, number),
                    "parcel_no": number,
                    "parcel_count": count,
                }
                for number in range(1, count + 1)
            ],
        }

    def _number(self, key: str, parcel: int) -> str:
        digest = hashlib.sha256(f"{self._sim.seed}:{key}:{parcel}".encode()).hexdigest()
        return str(int(digest, 16))[-11:]

    def _waybill_no(self, express_code: str, key: str, parcel: int) -> str:
        prefix = {"sf": "SF14", "jd": "JDVA0", "yto": "YT7", "jt": "JT5", "zto": "7", "deppon": "DPK3"}
        return prefix.get(express_code, "77") + self._number(key, parcel)

    def _answered(self, key: str, order_no: str, answer: Response) -> Response:
        line = {"at": datetime.now(UTC).isoformat(), "key": key, "order_no": order_no, "status": answer.status_code}
        self._ledger.append("call", order_no, line)
        return answer

    def _next_fault(self, order_no: str) -> dict[str, Any] | None:
        for about in (order_no, "*"):
            fault = self._ledger.get("fault", about)
            if fault and fault["times"] > 0:
                self._ledger.put("fault", about, {**fault, "times": fault["times"] - 1})
                return fault
        return None

    async def cancel(self, request: Request) -> Response:
        key = request.path_params["key"]
        shipment = self._ledger.get("shipment", key)
        if shipment is None:
            return _refuse(404, "UNKNOWN", "no such shipment")
        self._ledger.put("shipment", key, {**shipment, "active": False, "status": "cancelled"})
        return JSONResponse({"status": "cancelled"})

    async def preset(self, request: Request) -> Response:
        self._ledger.put("preset", request.path_params["order_no"], await request.json())
        return JSONResponse({})

    async def fault(self, request: Request) -> Response:
        given = await request.json()
        if given.get("mode") not in _MODES:
            return JSONResponse({"error": "unknown mode"}, status_code=400)
        self._ledger.put("fault", str(given.get("order_no", "*")), {**given, "times": int(given.get("times", 1))})
        return JSONResponse({})

    async def plant(self, request: Request) -> Response:
        given = await request.json()
        planted = {
            "order_no": given["order_no"],
            "shipment_id": given["shipment_id"],
            "status": "accepted",
            "active": True,
            "parcels": [],
            "planted": True,
        }
        self._ledger.append("plant", given["order_no"], planted)
        number = len(self._ledger.lines("plant"))
        self._ledger.put("shipment", f"planted:{number}", planted)
        return JSONResponse(planted)

    async def calls(self, request: Request) -> Response:
        return JSONResponse(self._ledger.lines("call", request.query_params.get("order_no")))

    async def shipments(self, _: Request) -> Response:
        return JSONResponse(self._ledger.all("shipment"))

    async def active(self, _: Request) -> Response:
        active: defaultdict[str, list[str]] = defaultdict(list)
        for shipment in self._ledger.all("shipment"):
            if shipment["active"]:
                active[shipment["order_no"]].append(shipment["shipment_id"])
        return JSONResponse(active)

    @asynccontextmanager
    async def handing_over(self, _: Starlette) -> AsyncGenerator[None]:
        """Tell the couriers of every accepted parcel, those that a killed predecessor had not told included."""
        async with httpx.AsyncClient(timeout=2, trust_env=False) as couriers:
            task = asyncio.create_task(self._hand_over(couriers))
            yield
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _hand_over(self, couriers: httpx.AsyncClient) -> None:
        told = {line["key"] for line in self._ledger.lines("handed_over")}
        printed = [shipment for shipment in self._ledger.all("shipment") if shipment["parcels"]]
        self._untold |= {shipment["key"]: shipment for shipment in printed if shipment["key"] not in told}
        while True:
            self._accepted.clear()
            for key, shipment in list(self._untold.items()):
                with suppress(httpx.HTTPError):
                    await self._tell(couriers, shipment)
                    self._ledger.append("handed_over", key, {"key": key})
                    del self._untold[key]
            with suppress(TimeoutError):
                # a courier that was away is told at the next round
                await asyncio.wait_for(self._accepted.wait(), timeout=0.5)

    async def _tell(self, couriers: httpx.AsyncClient, shipment: dict[str, Any]) -> None:
        preset = self._ledger.get("preset", shipment["order_no"]) or {}
        for parcel in shipment["parcels"]:
            journey = {
                "waybill_no": parcel["waybill_no"],
                "courier": preset.get("courier", parcel["express_code"]),
                "label_at": shipment["accepted_at"],
                "phone_tail": shipment["phone_tail"],
                "faults": preset.get("journey", []),
            }
            for url in self._courier_urls:
                (await couriers.post(f"{url}/sim/journeys", json=journey)).raise_for_status()


def _refuse(status: int, code: str, message: str) -> Response:
    return JSONResponse({"code": code, "message": message}, status_code=status)


if __name__ == "__main__":
    run("wms", build)
