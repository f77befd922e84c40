"""A bank: takes payment instructions once per key, moves the money when it pleases, and misbehaves on demand.

    POST /v1/instructions          Idempotency-Key = instruction_id; same key and body: the same instruction again;
                                   same key, other body: 422
    GET  /v1/instructions/{id}     what became of it; 404 NOT_FOUND when it never arrived
    POST /sim/faults               a rule about the next calls, see `Rule`;  DELETE forgets the rules
    GET  /sim/ledger[?order_no=]   every call, every instruction, and the money moved per order and receiver

Calls are signed: X-Bank-Timestamp (unix s) and X-Bank-Signature, the hex HMAC-SHA256 over
`METHOD\\npath\\ntimestamp\\nbody` with SIM_BANK_SECRET. SIM_BANK_SETTLE_SECONDS (0) is how long money usually takes.
"""

import asyncio
import hashlib
import hmac
import json
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from orderloop_lab.simulators.ledger import Simulator, run

LAB_SECRET = "bank-simulator-secret"  # noqa: S105 - the lab's, and nobody's outside
CLOCK_WINDOW_SECONDS = 300

Route_ = Literal["instruct", "query"]
How = Literal[
    "normal",
    "slow",  # done, answered after `seconds`
    "lost",  # done, the connection is closed without an answer
    "error",  # done, answered with 500
    "dropped",  # not done, the connection is closed
    "unavailable",  # not done, 503
    "throttled",  # not done, 429
    "html",  # done, 200 with a page
    "huge",  # done, 200 with megabytes
    "redirect",  # done, 302 to somewhere else
    "other_amount",  # done, but the answer tells of another amount
    "other_status",  # done, the answer has a status that nobody documented
]
NOT_DONE = frozenset({"dropped", "unavailable", "throttled"})


class Rule(BaseModel, extra="forbid"):
    """What shall happen to which calls. The first rule that fits and is not used up decides."""

    instruction_id: str | None = None
    order_no: str | None = None
    route: Route_ = "instruct"
    rate: float = Field(default=1.0, ge=0, le=1)  # of the calls that fit, drawn from SIM_SEED and the call itself
    times: int | None = 1  # None: for ever
    answer: How = "normal"
    seconds: float = Field(default=20.0, ge=0)  # of a slow answer, on the caller's clock: never divided
    outcome: Literal["success", "failed", "stuck"] = "success"  # of an instruction that is taken
    settle_seconds: float | None = Field(default=None, ge=0)  # until the money arrives, by SIM_TIME_FACTOR
    failed_receivers: list[str] | None = None  # with outcome failed: only these; the others are paid
    bank_code: str = "E301"
    reason: str = "ACCOUNT_ABNORMAL"


class Payout(BaseModel, extra="forbid"):
    receiver: str
    account: str
    amount_fen: int = Field(gt=0, strict=True)


class Instruction(BaseModel, extra="forbid"):
    instruction_id: str = Field(min_length=1, max_length=64)
    order_no: str = Field(min_length=1, max_length=64)
    currency: Literal["CNY"]
    total_fen: int = Field(gt=0, strict=True)
    payouts: list[Payout] = Field(min_length=1, max_length=50)


class Hangup(Response):
    """Cuts the connection: not a byte is answered."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        cycle: Any = receive.__self__  # type: ignore[attr-defined]  # uvicorn's, the one way to the socket
        cycle.transport.abort()
        while (await receive())["type"] != "http.disconnect":
            pass


@dataclass(frozen=True, slots=True)
class Bank:
    sim: Simulator
    secret: bytes
    settle_seconds: float

    async def instruct(self, request: Request, body: bytes) -> Response:
        try:
            wanted = Instruction.model_validate_json(body)
        except ValidationError as error:
            return self._refuse(request, 400, "BAD_REQUEST", str(error.error_count()) + " fields are wrong")
        key = request.headers.get("idempotency-key")
        if key != wanted.instruction_id:
            return self._refuse(request, 400, "KEY_MISMATCH", "Idempotency-Key is not the instruction_id")
        if sum(payout.amount_fen for payout in wanted.payouts) != wanted.total_fen:
            return self._refuse(request, 400, "SUM_MISMATCH", "the payouts do not add up to total_fen")
        with self.sim.ledger.transaction():
            rule = self._rule("instruct", wanted.instruction_id, wanted.order_no)
            self._note("instruct", wanted.instruction_id, wanted.order_no, rule, json.loads(body))
            if rule.answer not in NOT_DONE:
                self.sim.ledger.add("instruction", wanted.instruction_id, self._taken(wanted, rule))
        known = self.sim.ledger.get("instruction", wanted.instruction_id)
        if known is not None and known["asked"] != wanted.model_dump():
            return self._refuse(request, 422, "KEY_REUSED", "this key came with another body")
        return await self._answer(rule, 200, {} if known is None else told(known, _now()))

    async def query(self, request: Request, _: bytes) -> Response:
        instruction_id = request.path_params["instruction_id"]
        known = self.sim.ledger.get("instruction", instruction_id)
        with self.sim.ledger.transaction():
            order_no = None if known is None else str(known["asked"]["order_no"])
            rule = self._rule("query", instruction_id, order_no)
            self._note("query", instruction_id, order_no, rule, None)
        if known is None:
            return await self._answer(rule, 404, {"code": "NOT_FOUND", "reason": "no such instruction"})
        return await self._answer(rule, 200, told(known, _now()))

    def ledger(self, order_no: str | None) -> dict[str, Any]:
        """Every call; every instruction as a query would tell it now; what arrived, per order and receiver."""

        calls = self.sim.ledger.lines("call")
        # a query about an instruction that never arrived names no order: its id tells whose it was
        ids = {call["instruction_id"] for call in calls if call["order_no"] == order_no}

        def wanted(line: dict[str, Any]) -> bool:
            return order_no is None or line["order_no"] == order_no or line["instruction_id"] in ids

        documents = self.sim.ledger.all("instruction")
        instructions = [{"order_no": doc["asked"]["order_no"], **told(doc, _now())} for doc in documents]
        paid: dict[tuple[str, str], dict[str, Any]] = {}
        for instruction in filter(wanted, instructions):
            for payout in instruction["payouts"]:
                if payout["status"] == "SUCCESS":
                    row = paid.setdefault(
                        (instruction["order_no"], payout["receiver"]),
                        {"order_no": instruction["order_no"], "receiver": payout["receiver"]}
                        | {"payouts": 0, "amount_fen": 0},
                    )
                    row["payouts"] += 1
                    row["amount_fen"] += payout["amount_fen"]
        return {
            "calls": [call for call in calls if wanted(call)],
            "instructions": [instruction for instruction in instructions if wanted(instruction)],
            "paid": list(paid.values()),
        }

    def genuine(self, request: Request, body: bytes) -> bool:
        stamp, signature = request.headers.get("x-bank-timestamp", ""), request.headers.get("x-bank-signature", "")
        if not stamp.isdecimal() or abs(_now().timestamp() - int(stamp)) >= CLOCK_WINDOW_SECONDS:
            return False
        message = f"{request.method}\n{request.url.path}\n{stamp}\n".encode() + body
        return hmac.compare_digest(hmac.new(self.secret, message, hashlib.sha256).hexdigest(), signature)

    def add_rule(self, rule: Rule) -> int:
        with self.sim.ledger.transaction():
            number = self.sim.ledger.append("rule", "", rule.model_dump())
            self.sim.ledger.put("rule", str(number), {"number": number, "used": 0, "off": False} | rule.model_dump())
        return number

    def forget_rules(self) -> None:
        with self.sim.ledger.transaction():
            for rule in self.sim.ledger.all("rule"):
                self.sim.ledger.put("rule", str(rule["number"]), rule | {"off": True})

    def _rule(self, route: Route_, instruction_id: str, order_no: str | None) -> Rule:
        nth = sum(line["route"] == route for line in self.sim.ledger.lines("call", instruction_id))
        for document in self.sim.ledger.all("rule"):
            number, used, off = document.pop("number"), document.pop("used"), document.pop("off")
            rule = Rule.model_validate(document)
            fits = (
                not off
                and rule.route == route
                and rule.instruction_id in (None, instruction_id)
                and rule.order_no in (None, order_no)
                and (rule.times is None or used < rule.times)
                and self.sim.chance(number, instruction_id, nth).random() < rule.rate
            )
            if fits:
                self.sim.ledger.put("rule", str(number), document | {"number": number, "used": used + 1, "off": off})
                return rule
        return Rule(settle_seconds=self.settle_seconds)

    def _taken(self, wanted: Instruction, rule: Rule) -> dict[str, Any]:
        seconds = self.settle_seconds if rule.settle_seconds is None else rule.settle_seconds
        failed = (
            [payout.receiver for payout in wanted.payouts] if rule.failed_receivers is None else rule.failed_receivers
        )
        now = _now()
        return {
            "asked": wanted.model_dump(),
            "taken_at": now.isoformat(),
            "settles_at": (now + timedelta(seconds=self.sim.delay(seconds))).isoformat(),
            "stuck": rule.outcome == "stuck",
            "failed": failed if rule.outcome == "failed" else [],
            "bank_code": rule.bank_code,
            "reason": rule.reason,
        }

    def _note(self, route: Route_, instruction_id: str, order_no: str | None, rule: Rule, body: Any) -> None:
        line = {"at": _now().isoformat(), "route": route, "instruction_id": instruction_id, "order_no": order_no}
        self.sim.ledger.append("call", instruction_id, line | {"answer": rule.answer, "body": body})

    def _refuse(self, request: Request, status: int, code: str, reason: str) -> Response:
        line = {"at": _now().isoformat(), "route": "refused", "instruction_id": None, "order_no": None}
        self.sim.ledger.append("call", "", line | {"answer": code, "body": f"{request.method} {request.url.path}"})
        return JSONResponse({"code": code, "reason": reason}, status)

    async def _answer(self, rule: Rule, status: int, body: dict[str, Any]) -> Response:
        match rule.answer:
            case "normal":
                return JSONResponse(body, status)
            case "slow":
                # meant to outlast the caller's time-out, which no time factor shortens
                await asyncio.sleep(rule.seconds)
                return JSONResponse(body, status)
            case "lost" | "dropped":
                return Hangup()
            case "error":
                return JSONResponse({"code": "SYSTEM_ERROR", "reason": "internal error"}, 500)
            case "unavailable":
                return JSONResponse({"code": "UNAVAILABLE", "reason": "maintenance"}, 503)
            case "throttled":
                return JSONResponse({"code": "THROTTLED", "reason": "slow down"}, 429, {"Retry-After": "1"})
            case "html":
                return Response("<html><title>Bank</title>Please enable cookies</html>", 200, media_type="text/html")
            case "huge":
                return JSONResponse(body | {"padding": "x" * 5_000_000}, status)
            case "redirect":
                return RedirectResponse("/sim/ledger", 302)
            case "other_amount":
                payouts = [payout | {"amount_fen": payout["amount_fen"] + 1} for payout in body.get("payouts", [])]
                return JSONResponse(body | {"payouts": payouts}, status)
            case "other_status":
                return JSONResponse(body | {"status": "WEATHER"}, status)


def told(document: dict[str, Any], now: datetime) -> dict[str, Any]:
    """An instruction as the bank tells it at `now`."""
    asked, settles_at = document["asked"], datetime.fromisoformat(document["settles_at"])
    done = not document["stuck"] and settles_at <= now
    payouts: list[dict[str, Any]] = []
    for payout in asked["payouts"]:
        failed = done and payout["receiver"] in document["failed"]
        arrived = done and not failed
        payouts.append(
            payout
            | {
                "status": "FAILED" if failed else "SUCCESS" if arrived else "PROCESSING",
                "arrived_at": settles_at.isoformat() if arrived else None,
                "reason": document["reason"] if failed else None,
            }
        )
    statuses = {payout["status"] for payout in payouts}
    status = statuses.pop() if len(statuses) == 1 else "PARTIAL"
    return {
        "instruction_id": asked["instruction_id"],
        "status": status,
        "bank_code": {"SUCCESS": "0000", "PROCESSING": "0001"}.get(status, document["bank_code"]),
        "total_fen": asked["total_fen"],
        "currency": asked["currency"],
        "payouts": payouts,
    }


def build(sim: Simulator) -> Starlette:
    bank = Bank(
        sim=sim,
        secret=os.environ.get("SIM_BANK_SECRET", LAB_SECRET).encode(),
        settle_seconds=float(os.environ.get("SIM_BANK_SETTLE_SECONDS", "0")),
    )

    def signed(handle: Callable[[Request, bytes], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        async def checked(request: Request) -> Response:
            body = await request.body()
            if not bank.genuine(request, body):
                return JSONResponse({"code": "SIGN_ERROR", "reason": "signature or clock"}, 401)
            return await handle(request, body)

        return checked

    async def add_rule(request: Request) -> Response:
        try:
            rule = Rule.model_validate_json(await request.body())
        except ValidationError as error:
            return JSONResponse({"errors": error.errors(include_url=False, include_input=False)}, 400)
        return JSONResponse({"number": bank.add_rule(rule)}, 201)

    async def forget_rules(_: Request) -> Response:
        bank.forget_rules()
        return Response(status_code=204)

    async def ledger(request: Request) -> Response:
        return JSONResponse(bank.ledger(request.query_params.get("order_no")))

    return Starlette(
        routes=[
            Route("/v1/instructions", signed(bank.instruct), methods=["POST"]),
            Route("/v1/instructions/{instruction_id}", signed(bank.query), methods=["GET"]),
            Route("/sim/faults", add_rule, methods=["POST"]),
            Route("/sim/faults", forget_rules, methods=["DELETE"]),
            Route("/sim/ledger", ledger, methods=["GET"]),
        ]
    )


def _now() -> datetime:
    return datetime.now(UTC)


if __name__ == "__main__":
    run("bank", build)
