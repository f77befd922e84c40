"""Alipay's gateway: signed forms out, answers verified over their own bytes.

Sources: gopay @alipay/sign.go, getSignData (a request's string holds sign_type, an answer's is the raw substring),
alipay-sdk AlipayTradeQuery/Close/Refund/FastpayRefundQuery (fields).
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import httpx
import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from orderloop.clock import Clock
from orderloop.money import fen, yuan

from ..channels import signing
from ..channels.alipay import BEIJING, NAME, moment
from .exchange import exchange
from .gateway import (
    Closed,
    GatewayRefuses,
    GatewaySilent,
    Paid,
    Refund,
    RefundAsked,
    RefundState,
    Standing,
    Trade,
    Unpaid,
)

_DONE = "10000"
_FAILED = "40004"  # the business said no; sub_code says why. Every other code is about the call itself
_LATER = frozenset({"ACQ.SYSTEM_ERROR", "SYSTEM_ERROR", "aop.ACQ.SYSTEM_ERROR"})
_NOT_THERE = "ACQ.TRADE_NOT_EXIST"
_LONGEST_REASON = 256
_PUBLIC = ("code", "sub_code", "trade_no", "out_trade_no", "trade_status", "total_amount", "buyer_pay_amount",
           "receipt_amount", "send_pay_date")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Seller:
    """Who we are towards the channel."""

    app_id: str
    seller_id: str
    key: rsa.RSAPrivateKey


@dataclass(frozen=True, slots=True)
class _Answer:
    said: Mapping[str, Any]
    raw: bytes  # what the signature is about
    signature: str


class AlipayGateway:
    name = NAME

    def __init__(
        self, client: httpx.AsyncClient, url: str, seller: Seller, key: rsa.RSAPublicKey, *, clock: Clock
    ) -> None:
        """`key` is Alipay's own."""
        self._client = client
        self._url = url
        self._seller = seller
        self._key = key
        self._clock = clock

    async def look(self, order_no: str) -> Trade:
        answer = await self._ask("alipay.trade.query", {"out_trade_no": order_no})
        if answer.said["code"] == _FAILED:
            # Normal until the payer opens the cashier: then there is nothing that could take money yet.
            return Trade(Closed(), self._evidence(answer)) if _sub_code(answer) == _NOT_THERE else _silent(answer)
        try:
            if answer.said["out_trade_no"] != order_no:
                raise GatewaySilent("an answer about another order")
            return Trade(self._standing(answer.said), self._evidence(answer))
        except (KeyError, TypeError, ValueError) as error:
            raise GatewaySilent(f"the answer is not understood: {type(error).__name__}") from None

    async def close(self, order_no: str) -> None:
        answer = await self._ask("alipay.trade.close", {"out_trade_no": order_no})
        if answer.said["code"] == _FAILED and _sub_code(answer) != _NOT_THERE:
            raise GatewayRefuses(_sub_code(answer))

    async def refund(self, asked: RefundAsked) -> Refund:
        if asked.refund_fen is None or asked.total_fen is None:
            raise ValueError("a refund without its amount")
        wish = {
            "trade_no": asked.transaction_id,
            "out_request_no": asked.out_refund_no,
            "refund_amount": yuan(asked.refund_fen),
            "refund_reason": asked.reason[:_LONGEST_REASON],
        }
        answer = await self._ask("alipay.trade.refund", wish)
        if answer.said["code"] == _FAILED:
            raise GatewayRefuses(_sub_code(answer))
        # refund_fee of this answer is the total so far, and fund_change=N may mean "done before" or "not yet".
        return await self.look_at_refund(asked)

    async def look_at_refund(self, asked: RefundAsked) -> Refund:
        wish = {"trade_no": asked.transaction_id, "out_request_no": asked.out_refund_no,
                "query_options": ["gmt_refund_pay"]}  # fmt: skip
        answer = await self._ask("alipay.trade.fastpay.refund.query", wish)
        if answer.said["code"] == _FAILED:
            return Refund(RefundState.UNKNOWN) if _sub_code(answer) == _NOT_THERE else _silent(answer)
        said = answer.said
        if said.get("refund_status") != "REFUND_SUCCESS":
            return Refund(RefundState.UNKNOWN)  # the channel has no word for "on its way"
        try:
            if (said["trade_no"], said["out_request_no"]) != (asked.transaction_id, asked.out_refund_no):
                raise GatewaySilent("an answer about another refund")
            paid_back = said.get("gmt_refund_pay")
            return Refund(
                state=RefundState.SUCCESS,
                refund_id=f"{asked.transaction_id}:{asked.out_refund_no}",  # the channel counts refunds by our number
                refund_fen=fen(said["refund_amount"]),
                total_fen=fen(said["total_amount"]),
                finished_at=moment(paid_back) if paid_back else None,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise GatewaySilent(f"the answer is not understood: {type(error).__name__}") from None

    def _standing(self, said: Mapping[str, Any]) -> Standing:
        match said["trade_status"]:
            case "WAIT_BUYER_PAY":
                return Unpaid()
            case "TRADE_CLOSED" if not said.get("send_pay_date"):
                return Closed()
            case "TRADE_SUCCESS" | "TRADE_FINISHED" | "TRADE_CLOSED":  # closed by a full refund: it was paid
                total = fen(said["total_amount"])
                return Paid(
                    transaction_id=str(said["trade_no"]),
                    mchid=self._seller.seller_id,
                    amount_fen=total,
                    payer_total_fen=fen(said["buyer_pay_amount"]) if said.get("buyer_pay_amount") else total,
                    currency="CNY",
                    paid_at=moment(said["send_pay_date"]),
                )
            case _:
                raise ValueError("a trade_status of tomorrow")

    def _evidence(self, answer: _Answer) -> dict[str, Any]:
        return {
            "channel": NAME,
            "signed": True,
            "answer": {name: answer.said[name] for name in _PUBLIC if name in answer.said},
            "body_sha256": hashlib.sha256(answer.raw).hexdigest(),
            "signature": answer.signature,
            "asked_at": self._clock.now().isoformat(),
        }

    async def _ask(self, method: str, wish: Mapping[str, Any]) -> _Answer:
        """A verified answer that says done or failed. Raises GatewaySilent."""
        form = self._signed(method, wish)
        heard = await exchange(self._client, self._client.build_request("POST", self._url, data=form))
        if heard.status != 200:
            raise GatewaySilent(f"status {heard.status}")
        answer = read_answer(heard.body, method.replace(".", "_") + "_response")
        try:
            signing.verify(self._key, answer.signature, answer.raw)
        except InvalidSignature:
            raise GatewaySilent("the answer is not authentic") from None
        code = answer.said.get("code")
        if code not in {_DONE, _FAILED} or answer.said.get("sub_code") in _LATER:
            raise GatewaySilent(f"the channel says {code}")
        return answer

    def _signed(self, method: str, wish: Mapping[str, Any]) -> dict[str, str]:
        form = {
            "app_id": self._seller.app_id,
            "method": method,
            "format": "JSON",
            "charset": "utf-8",
            "sign_type": "RSA2",
            "timestamp": self._clock.now().astimezone(BEIJING).strftime("%Y-%m-%d %H:%M:%S"),
            "version": "1.0",
            "biz_content": orjson.dumps(wish).decode(),
        }
        message = "&".join(f"{name}={value}" for name, value in sorted(form.items())).encode()
        signature = self._seller.key.sign(message, padding.PKCS1v15(), hashes.SHA256())
        return form | {"sign": base64.b64encode(signature).decode()}


def read_answer(body: bytes, name: str) -> _Answer:
    """The object under `name`, its bytes as they stand in `body`, and the signature. Raises GatewaySilent.

    The signature is about those bytes: JSON that is parsed and written again differs from them.
    """
    decoder = json.JSONDecoder()
    found: dict[str, tuple[Any, str]] = {}
    try:
        text = body.decode().strip()
        if not text.startswith("{"):
            raise ValueError("no object")
        position = 1
        while True:
            key, position = decoder.raw_decode(text, _skip(text, position, ""))
            position = _skip(text, position, ":")
            value, end = decoder.raw_decode(text, position)
            if not isinstance(key, str) or key in found:
                raise ValueError("a name that is none, or comes twice")
            found[key] = value, text[position:end]
            position = _skip(text, end, "")
            if text[position] == "}":
                break
            position = _skip(text, position, ",")
        said, raw = found[name]
        signature, _ = found["sign"]
    except (ValueError, KeyError, IndexError):
        raise GatewaySilent("the answer is not understood") from None
    if not isinstance(said, dict) or not isinstance(signature, str):
        raise GatewaySilent("the answer is not understood")
    return _Answer(said, raw.encode(), signature)


def _skip(text: str, position: int, mark: str) -> int:
    """The next place that is no blank, behind `mark`. Raises ValueError when the mark is not there."""
    while text[position].isspace():
        position += 1
    if not mark:
        return position
    if text[position] != mark:
        raise ValueError("no JSON")
    return _skip(text, position + 1, "")


def _sub_code(answer: _Answer) -> str:
    return str(answer.said.get("sub_code", ""))[:64]


def _silent(answer: _Answer) -> NoReturn:
    raise GatewaySilent(f"the channel says {_sub_code(answer)}")
