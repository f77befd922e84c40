"""The way of one parcel, told alike by every courier simulator that was told of it.

A journey is computed, not stored: the waybill, the moment of the label and SIM_SEED say when which scan happens. Hours
are divided by SIM_TIME_FACTOR, and the scans carry the compressed (real) time. With a factor of 36000 ten hours last a
second and a parcel is delivered three or four seconds after its label.

    POST /sim/journeys   {"waybill_no", "courier", "label_at"?, "phone_tail"?, "faults"?: [...]}
    GET  /sim/journeys   what is known; a second POST changes the fields that it gives and keeps the others
"""

import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .ledger import Simulator


class Fault(StrEnum):
    SILENT = "silent"  # label printed, nobody came, no scan at all
    LABEL_ONLY = "label_only"  # the courier knows the order and never picks it up
    AGGREGATOR_DOWN = "aggregator_down"  # Kuaidi100 is busy for this waybill; the courier itself answers
    AGGREGATOR_HTML = "aggregator_html"  # Kuaidi100 answers 200 with a web page
    DIRECT_DOWN = "direct_down"  # the courier's own interface fails
    OUT_OF_ORDER = "out_of_order"  # scans in no order, and the pickup is told after the transit
    BACKWARDS = "backwards"  # on the van, then in the depot again, then on the van
    RETURNED = "returned"  # refused at the door


class Step(StrEnum):
    LABEL = "label"
    PICKUP = "pickup"
    DEPARTURE = "departure"
    ARRIVAL = "arrival"
    DELIVERING = "delivering"
    SIGNED = "signed"
    RETURNED = "returned"


@dataclass(frozen=True, slots=True)
class Scan:
    at: datetime  # when it happened
    told_at: datetime  # when the courier's interface knows it
    step: Step
    city: str


@dataclass(frozen=True, slots=True)
class Journey:
    waybill_no: str
    courier: str  # who really carries it, as the house spells it: sf, zto …
    label_at: datetime
    phone_tail: str | None = None  # the receiver's last four digits; some couriers answer nobody without them
    faults: frozenset[Fault] = frozenset()

    def document(self) -> dict[str, Any]:
        return {
            "waybill_no": self.waybill_no,
            "courier": self.courier,
            "label_at": self.label_at.isoformat(),
            "phone_tail": self.phone_tail,
            "faults": sorted(self.faults),
        }

    @classmethod
    def read(cls, document: dict[str, Any]) -> "Journey":
        """Raises KeyError or ValueError for what is no journey."""
        label_at = datetime.fromisoformat(document["label_at"])
        if label_at.tzinfo is None:
            raise ValueError("label_at has no offset")
        return cls(
            waybill_no=document["waybill_no"],
            courier=document["courier"],
            label_at=label_at,
            phone_tail=document.get("phone_tail"),
            faults=frozenset(map(Fault, document.get("faults", ()))),
        )

    def scans(self, sim: Simulator, now: datetime) -> list[Scan]:
        """What the courier knows `now`, oldest first."""
        return [scan for scan in self._all_scans(sim) if scan.told_at <= now]

    def _all_scans(self, sim: Simulator) -> list[Scan]:
        # The seed and the waybill alone decide: every simulator tells the same journey, whatever its name.
        chance = random.Random(f"{sim.seed}:journey:{self.waybill_no}")
        plan = self._plan(chance)

        def moment(hours: float) -> datetime:
            return self.label_at + timedelta(seconds=sim.delay(hours * 3600))

        told = {step: hours for step, hours, _ in plan}
        scans: list[Scan] = []
        for step, hours, city in plan:
            late = step is Step.PICKUP and Fault.OUT_OF_ORDER in self.faults
            scans.append(Scan(moment(hours), moment(told.get(Step.ARRIVAL, hours) if late else hours), step, city))
        return scans

    def _plan(self, chance: random.Random) -> list[tuple[Step, float, str]]:
        """Steps with the hours since the label and the city."""
        if Fault.SILENT in self.faults:
            return []
        plan: list[tuple[Step, float, str]] = []
        hours = 0.0

        def then(step: Step, low: float, high: float, city: str) -> None:
            nonlocal hours
            hours += chance.uniform(low, high)
            plan.append((step, hours, city))

        then(Step.LABEL, 0.1, 0.5, "苏州市")
        if Fault.LABEL_ONLY in self.faults:
            return plan
        then(Step.PICKUP, 2, 6, "苏州市")
        then(Step.DEPARTURE, 1, 3, "苏州市")
        then(Step.ARRIVAL, 6, 12, "广州市")
        then(Step.DELIVERING, 3, 6, "广州市")
        if Fault.BACKWARDS in self.faults:
            then(Step.ARRIVAL, 1, 2, "广州市")
            then(Step.DELIVERING, 10, 14, "广州市")
        last = Step.RETURNED if Fault.RETURNED in self.faults else Step.SIGNED
        then(last, 1, 5, "广州市")
        return plan


def journey_of(sim: Simulator, waybill_no: str) -> Journey | None:
    document = sim.ledger.get("journey", waybill_no)
    return None if document is None else Journey.read(document)


def journey_routes(sim: Simulator) -> list[Route]:
    async def tell(request: Request) -> Response:
        given = await request.json()
        try:
            known = sim.ledger.get("journey", given["waybill_no"]) or {"label_at": datetime.now(UTC).isoformat()}
            journey = Journey.read({**known, **{name: value for name, value in given.items() if value is not None}})
        except (KeyError, TypeError, ValueError) as error:
            return JSONResponse({"error": f"no journey: {error!r}"}, status_code=400)
        sim.ledger.put("journey", journey.waybill_no, journey.document())
        return JSONResponse(journey.document())

    async def known(_: Request) -> Response:
        return JSONResponse(sim.ledger.all("journey"))

    return [
        Route("/sim/journeys", tell, methods=["POST"]),
        Route("/sim/journeys", known, methods=["GET"]),
    ]
