"""WeChat Pay V3's API: signed requests, verified answers.

Sources: WXDOC build-verify-sign-src (five lines are signed), wechatpay-go @6dbd7ce services/payments, refunddomestic
(paths, fields), wechatpayv3 combine_close (closing combined orders), wechatpay-php#139 (answers can be probes, too).
"""

import base64
import hashlib
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import httpx
import orjson
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from orderloop.clock import Clock

from ..channels import Reason, Refused
from ..channels.wechat import NAME, WeChat
from .exchange import Heard, exchange
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

_ASKED_AGAIN = 3  # probes come singly; three in a row are something else
_LONGEST_REASON = 80
_USER_AGENT = "orderloop"  # requests without one are refused
_NOT_THERE = frozenset({"ORDER_NOT_EXIST", "RESOURCE_NOT_EXISTS"})
# What may be shown as evidence: all of it but the payer, what he bought, and what the shop attached.
_PUBLIC = ("mchid", "appid", "sp_mchid", "sp_appid", "sub_mchid", "out_trade_no", "transaction_id", "trade_type",
           "trade_state", "success_time", "amount")  # fmt: skip

_SUB_ORDER = ("mchid", "sub_mchid", "out_trade_no")  # what names one when it is closed

Judged = TypeVar("Judged")


@dataclass(frozen=True, slots=True)
class Merchant:
    """Who we are towards the channel."""

    mchid: str
    appid: str
    serial: str  # of the merchant's certificate
    key: rsa.RSAPrivateKey
    sub_mchid: str | None = None  # set: we are the service provider of this merchant
    combined: bool = False  # orders may be paid as combined ones, under their own number
    public_key_id: str | None = None  # set: ask for answers signed with this key
    refund_notify_url: str | None = None  # None: the one set on the merchant platform


class WeChatGateway:
    name = NAME

    def __init__(
        self, client: httpx.AsyncClient, base_url: str, merchant: Merchant, verifier: WeChat, *, clock: Clock
    ) -> None:
        """`verifier` holds the channel's keys, of both kinds during a switch-over."""
        self._client = client
        self._base_url = base_url.rstrip("/")
        self._merchant = merchant
        self._verifier = verifier
        self._clock = clock

    async def look(self, order_no: str) -> Trade:
        try:
            heard, said = await self._ask("GET", f"{self._order(order_no)}?{urlencode(self._payee())}")
        except GatewayRefuses as refusal:
            if refusal.code not in _NOT_THERE:
                raise GatewaySilent(str(refusal)) from None
            if self._merchant.combined:
                return await self._look_combined(order_no)
            return self._not_there(refusal.code)
        return self._trade(order_no, said, heard)

    async def close(self, order_no: str) -> None:
        try:
            await self._ask("POST", f"{self._order(order_no)}/close", self._payee())
        except GatewayRefuses as refusal:
            if refusal.code not in _NOT_THERE or not self._merchant.combined:
                raise
            await self._close_combined(order_no)

    async def refund(self, asked: RefundAsked) -> Refund:
        wish: dict[str, Any] = {
            "transaction_id": asked.transaction_id,
            "out_refund_no": asked.out_refund_no,
            "reason": asked.reason[:_LONGEST_REASON],
            "amount": {"refund": asked.refund_fen, "total": asked.total_fen, "currency": "CNY"},
        }
        if self._merchant.sub_mchid:
            wish["sub_mchid"] = self._merchant.sub_mchid
        if self._merchant.refund_notify_url:
            wish["notify_url"] = self._merchant.refund_notify_url
        _, said = await self._ask("POST", "/v3/refund/domestic/refunds", wish)
        return _refund(asked, said)

    async def look_at_refund(self, asked: RefundAsked) -> Refund:
        target = f"/v3/refund/domestic/refunds/{quote(asked.out_refund_no, safe='')}"
        if self._merchant.sub_mchid:
            target += f"?{urlencode({'sub_mchid': self._merchant.sub_mchid})}"
        try:
            _, said = await self._ask("GET", target)
        except GatewayRefuses as refusal:
            if refusal.code in _NOT_THERE:
                return Refund(RefundState.UNKNOWN)
            raise GatewaySilent(str(refusal)) from None
        return _refund(asked, said)

    async def echo(self, message: str, *, notify_url: str, serial: str) -> None:
        """The channel's self-test: a notice with `message` goes to `notify_url`, signed by the key named `serial`.

        Raises GatewaySilent and GatewayRefuses. WXDOC 4014551946.
        """
        await self._ask("POST", "/v3/security/echo", {"echo_message": message, "notify_url": notify_url}, serial=serial)

    async def certificates(self) -> dict[str, bytes]:
        """The platform certificates that the channel signs with, PEM by serial.

        Raises GatewaySilent, and GatewayRefuses for a merchant who has none: new ones get the public key alone.
        """
        _, pems = await self._authentic("GET", "/v3/certificates", judge=self._verifier.read_certificates)
        return pems

    async def _look_combined(self, order_no: str) -> Trade:
        """A combined order is unknown to the ordinary query."""
        try:
            heard, subs = await self._sub_orders(order_no)
        except GatewayRefuses as refusal:
            if refusal.code not in _NOT_THERE:
                raise GatewaySilent(str(refusal)) from None
            return self._not_there(refusal.code)
        for sub in subs:
            if sub.get("out_trade_no") == order_no:
                return self._trade(order_no, sub, heard)
        raise GatewaySilent("a combined answer without the order")

    async def _close_combined(self, order_no: str) -> None:
        """All of its sub-orders: they are paid together or not at all, so one alone could not stay open either."""
        _, subs = await self._sub_orders(order_no)
        closed = [{name: sub[name] for name in _SUB_ORDER if name in sub} for sub in subs]
        wish = {"combine_appid": self._merchant.appid, "sub_orders": closed}
        await self._ask("POST", f"{_combined(order_no)}/close", wish)

    async def _sub_orders(self, order_no: str) -> tuple[Heard, list[dict[str, Any]]]:
        heard, said = await self._ask("GET", _combined(order_no))
        subs = said.get("sub_orders")
        return heard, [sub for sub in subs if isinstance(sub, dict)] if isinstance(subs, list) else []

    def _trade(self, order_no: str, said: Mapping[str, Any], heard: Heard) -> Trade:
        try:
            if said["out_trade_no"] != order_no:
                raise GatewaySilent("an answer about another order")
            standing = self._standing(said)
        except (KeyError, TypeError, ValueError) as error:
            raise GatewaySilent(f"the answer is not understood: {type(error).__name__}") from None
        return Trade(standing, self._evidence(said, heard))

    def _standing(self, said: Mapping[str, Any]) -> Standing:
        match said["trade_state"]:
            case "SUCCESS" | "REFUND":  # REFUND even for a partial one: it was paid
                amount = said["amount"]
                total = int(amount.get("total", amount.get("total_amount")))
                payer = amount.get("payer_total", amount.get("payer_amount"))
                return Paid(
                    transaction_id=str(said["transaction_id"]),
                    mchid=str(said.get("mchid") or self._merchant.mchid),  # a sub-order's is its own
                    amount_fen=total,
                    payer_total_fen=total if payer is None else int(payer),
                    currency=str(amount.get("currency", "CNY")),
                    paid_at=datetime.fromisoformat(said["success_time"]),
                )
            case "CLOSED" | "REVOKED":
                return Closed()
            case "NOTPAY" | "USERPAYING" | "ACCEPT" | "PAYERROR":
                return Unpaid()
            case _:
                raise ValueError("a trade_state of tomorrow")

    def _evidence(self, said: Mapping[str, Any], heard: Heard) -> dict[str, Any]:
        return {
            "channel": NAME,
            "signed": True,
            "answer": {name: said[name] for name in _PUBLIC if name in said},
            "body_sha256": hashlib.sha256(heard.body).hexdigest(),
            "serial": heard.headers["wechatpay-serial"],
            "timestamp": heard.headers["wechatpay-timestamp"],
            "nonce": heard.headers["wechatpay-nonce"],
            "signature": heard.headers["wechatpay-signature"],
            "asked_at": self._clock.now().isoformat(),
        }

    def _not_there(self, code: str) -> Trade:
        evidence = {"channel": NAME, "signed": False, "answer": {"code": code}}
        return Trade(Closed(), evidence | {"asked_at": self._clock.now().isoformat()})

    def _order(self, order_no: str) -> str:
        partner = "partner/" if self._merchant.sub_mchid else ""
        return f"/v3/pay/{partner}transactions/out-trade-no/{quote(order_no, safe='')}"

    def _payee(self) -> dict[str, str]:
        if self._merchant.sub_mchid:
            return {"sp_mchid": self._merchant.mchid, "sub_mchid": self._merchant.sub_mchid}
        return {"mchid": self._merchant.mchid}

    async def _ask(
        self, method: str, target: str, wish: Mapping[str, Any] | None = None, *, serial: str | None = None
    ) -> tuple[Heard, dict[str, Any]]:
        """A verified answer. Raises GatewaySilent, and GatewayRefuses with the code of a 4xx, which nobody signs."""
        heard, _ = await self._authentic(method, target, wish, serial=serial, judge=self._verifier.verify)
        return heard, _object(heard.body)

    async def _authentic(
        self,
        method: str,
        target: str,
        wish: Mapping[str, Any] | None = None,
        *,
        serial: str | None = None,
        judge: Callable[[Mapping[str, str], bytes, datetime], Judged],
    ) -> tuple[Heard, Judged]:
        """An answer, and what `judge` reads in it; that raises Refused unless the channel has signed it."""
        body = orjson.dumps(wish) if wish is not None else b""
        for _ in range(_ASKED_AGAIN):
            heard = await exchange(self._client, self._request(method, target, body, serial))
            if heard.status >= 400:
                raise GatewayRefuses(_code(heard.body))
            try:
                return heard, judge(heard.headers, heard.body, self._clock.now())
            except Refused as refused:
                if refused.reason is Reason.PROBE:
                    continue  # it tests whether we verify at all; the same question brings a real answer
                raise GatewaySilent(f"the answer is not authentic: {refused.reason}") from None
        raise GatewaySilent("nothing but signature probes")

    def _request(self, method: str, target: str, body: bytes, serial: str | None) -> httpx.Request:
        headers = {"Accept": "application/json", "User-Agent": _USER_AGENT}
        if body:
            headers["Content-Type"] = "application/json"
        if serial or self._merchant.public_key_id:
            headers["Wechatpay-Serial"] = serial or self._merchant.public_key_id or ""
        request = self._client.build_request(method, self._base_url + target, content=body, headers=headers)
        # What is signed is the path as it is sent, whatever the client made of it.
        request.headers["Authorization"] = self._authorization(method, request.url.raw_path.decode("ascii"), body)
        return request

    def _authorization(self, method: str, target: str, body: bytes) -> str:
        timestamp, nonce = str(int(self._clock.now().timestamp())), secrets.token_hex(16)
        message = b"%b\n%b\n%b\n%b\n%b\n" % (
            method.encode(), target.encode(), timestamp.encode(), nonce.encode(), body,
        )  # fmt: skip
        signature = base64.b64encode(self._merchant.key.sign(message, padding.PKCS1v15(), hashes.SHA256())).decode()
        return (
            f'WECHATPAY2-SHA256-RSA2048 mchid="{self._merchant.mchid}",nonce_str="{nonce}",timestamp="{timestamp}",'
            f'serial_no="{self._merchant.serial}",signature="{signature}"'
        )


def _combined(order_no: str) -> str:
    return f"/v3/combine-transactions/out-trade-no/{quote(order_no, safe='')}"


def _refund(asked: RefundAsked, said: Mapping[str, Any]) -> Refund:
    try:
        if said["out_refund_no"] != asked.out_refund_no:
            raise GatewaySilent("an answer about another refund")
        finished_at = said.get("success_time")
        return Refund(
            state=RefundState(said["status"]),
            refund_id=str(said["refund_id"]),
            refund_fen=int(said["amount"]["refund"]),
            total_fen=int(said["amount"]["total"]),
            finished_at=datetime.fromisoformat(finished_at) if finished_at else None,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise GatewaySilent(f"the answer is not understood: {type(error).__name__}") from None


def _object(body: bytes) -> dict[str, Any]:
    if not body:  # 204
        return {}
    try:
        said = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise GatewaySilent("the answer is no JSON") from None
    if not isinstance(said, dict):
        raise GatewaySilent("the answer is no object")
    return said


def _code(body: bytes) -> str:
    """The channel's own error code; a refusal without one may be anybody's."""
    code = _object(body).get("code")
    if not isinstance(code, str) or not code.replace("_", "").isalnum():
        raise GatewaySilent("a refusal that is not the channel's")
    return code[:64]
