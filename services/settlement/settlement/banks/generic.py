"""A bank with a plain HTTP interface: JSON, an idempotency key, an HMAC over every call.

    POST /v1/instructions          Idempotency-Key: {reference}
    GET  /v1/instructions/{reference}

Every call carries X-Bank-Timestamp (unix s) and X-Bank-Signature = hex HMAC-SHA256 over
`METHOD\\npath\\ntimestamp\\nbody`. An answer is believed only if it is a 200 whose JSON has the documented shape and
tells of our own payouts; a 404 only if it says NOT_FOUND. Everything else leaves the outcome unknown.
"""

import asyncio
import hashlib
import hmac
import json
from datetime import datetime
from http import HTTPStatus
from typing import Annotated, Any, Literal, assert_never

import httpx
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from orderloop.clock import Clock
from settlement.answers import Answer, Instruction, NotFound, PayoutStatus, PayoutTold, Told, Unknown
from settlement.banks import Sent

# An answer about 50 receivers has 15 KB.
_LARGEST_ANSWER = 65_536

_Code = Annotated[str, StringConstraints(min_length=1, max_length=32, pattern=r"^[0-9A-Za-z_.-]+$")]
_Words = Annotated[str, StringConstraints(max_length=200)]


class _Payout(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")

    receiver: str
    account: str
    amount_fen: int
    status: Literal["PROCESSING", "SUCCESS", "FAILED"]
    arrived_at: Annotated[AwareDatetime | None, Field(strict=False)] = None
    reason: _Words | None = None


class _Instruction(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")

    instruction_id: str
    status: Literal["PROCESSING", "SUCCESS", "FAILED", "PARTIAL"]
    bank_code: _Code
    total_fen: int
    currency: Literal["CNY"]
    payouts: list[_Payout]


class _NotFound(BaseModel):
    code: Literal["NOT_FOUND"]


class _TooLarge(Exception):
    pass


class GenericBank:
    def __init__(self, client: httpx.AsyncClient, *, secret: bytes, timeout_seconds: float, clock: Clock) -> None:
        """`client` has the bank's base address and follows no redirects."""
        self._client = client
        self._secret = secret
        self._timeout = timeout_seconds  # of a whole call: a trickling answer is late as well
        self._clock = clock

    async def instruct(self, instruction: Instruction, *, on_sent: Sent) -> Answer:
        body = {
            "instruction_id": instruction.reference,
            "order_no": instruction.order_no,
            "currency": "CNY",
            "total_fen": instruction.amount_fen,
            "payouts": [
                {"receiver": payout.receiver, "account": payout.account, "amount_fen": payout.amount_fen}
                for payout in instruction.payouts
            ],
        }
        return await self._call("POST", "/v1/instructions", instruction, json.dumps(body).encode(), on_sent)

    async def ask(self, instruction: Instruction) -> Answer:
        return await self._call("GET", f"/v1/instructions/{instruction.reference}", instruction, b"", lambda: None)

    async def _call(self, method: str, path: str, instruction: Instruction, body: bytes, on_sent: Sent) -> Answer:
        async def trace(event: str, _: dict[str, Any]) -> None:
            if event == "http11.send_request_body.complete":
                on_sent()

        headers = self._signed(method, path, body)
        if body:
            headers |= {"Idempotency-Key": instruction.reference, "Content-Type": "application/json"}
        try:
            async with (
                asyncio.timeout(self._timeout),
                self._client.stream(
                    method, path, content=body, headers=headers, follow_redirects=False, extensions={"trace": trace}
                ) as response,
            ):
                content = await _read(response)
        except (TimeoutError, httpx.TimeoutException):
            return Unknown("timeout")
        except httpx.HTTPError as error:
            return Unknown(_word(error))
        except _TooLarge:
            return Unknown("answer_too_large")
        return _understand(response.status_code, content, instruction, asked=method == "GET")

    def _signed(self, method: str, path: str, body: bytes) -> dict[str, str]:
        stamp = str(int(self._clock.now().timestamp()))
        message = f"{method}\n{path}\n{stamp}\n".encode() + body
        return {
            "X-Bank-Timestamp": stamp,
            "X-Bank-Signature": hmac.new(self._secret, message, hashlib.sha256).hexdigest(),
        }


async def _read(response: httpx.Response) -> bytes:
    content = b""
    async for chunk in response.aiter_bytes():
        content += chunk
        if len(content) > _LARGEST_ANSWER:
            raise _TooLarge
    return content


def _understand(status: int, content: bytes, instruction: Instruction, *, asked: bool) -> Answer:
    try:
        if status == HTTPStatus.NOT_FOUND and asked:
            _NotFound.model_validate_json(content)
            return NotFound()
        if status != HTTPStatus.OK:
            return Unknown(f"http_{status}")
        told = _Instruction.model_validate_json(content)
    except ValidationError:
        return Unknown("answer_malformed")
    return _told(told, instruction)


def _told(told: _Instruction, instruction: Instruction) -> Told | Unknown:
    ours = sorted((payout.receiver, payout.account, payout.amount_fen) for payout in instruction.payouts)
    theirs = sorted((payout.receiver, payout.account, payout.amount_fen) for payout in told.payouts)
    if told.instruction_id != instruction.reference or told.total_fen != instruction.amount_fen or ours != theirs:
        return Unknown("answer_of_another_instruction")
    payouts = tuple(
        PayoutTold(payout.receiver, _status(payout.status), _arrival(payout), payout.reason) for payout in told.payouts
    )
    if any(payout.status is PayoutStatus.SUCCESS and payout.arrived_at is None for payout in payouts):
        return Unknown("success_without_arrival")
    return Told(told.bank_code, payouts)


def _status(status: Literal["PROCESSING", "SUCCESS", "FAILED"]) -> PayoutStatus:
    match status:
        case "PROCESSING":
            return PayoutStatus.PROCESSING
        case "SUCCESS":
            return PayoutStatus.SUCCESS
        case "FAILED":
            return PayoutStatus.FAILED
        case _:
            assert_never(status)


def _arrival(payout: _Payout) -> datetime | None:
    return payout.arrived_at if payout.status == "SUCCESS" else None


def _word(error: httpx.HTTPError) -> str:
    """ConnectError -> connect_error."""
    name = type(error).__name__
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")
