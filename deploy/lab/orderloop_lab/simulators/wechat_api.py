"""WeChat Pay's API as a merchant's server meets it: queries, closes and refunds, signed both ways.

A refusal (4xx) is not signed, as with the real one.
"""

import asyncio
import base64
import json
import re
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta, timezone
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .api_faults import ApiFaults, Fault
from .ledger import Simulator
from .wechat_certificates import Certificates
from .wechat_keys import APPID, MCHID, KeyMode, Keys, random_text, signature_headers

BEIJING = timezone(timedelta(hours=8))
SETTLES_AFTER = 10  # seconds until a refund is through, divided by the time factor
_HANG_SECONDS = 30  # longer than any caller waits
_AUTHORIZATION = re.compile(r'(\w+)="([^"]*)"')
_ORDER = "transactions/out-trade-no/{out_trade_no}"

Said = tuple[int, dict[str, Any] | None]


class Api:
    def __init__(
        self,
        sim: Simulator,
        keys: Keys,
        certificates: Certificates,
        refunded: Callable[[dict[str, Any], float], None],
    ) -> None:
        """`refunded` is told of a refund and of the seconds after which the merchant is to be notified.

        `echoed`, once it is set, of a self-test: its message, where to, and by which kind of key.
        """
        self.echoed: Callable[[str, str, KeyMode], None] | None = None
        self._sim = sim
        self._ledger = sim.ledger
        self._keys = keys
        self._certificates = certificates
        self._refunded = refunded
        self._faults = ApiFaults()

    def routes(self) -> list[Route]:
        return [
            Route(f"/v3/pay/{_ORDER}", self._on("query", self._query)),
            Route(f"/v3/pay/partner/{_ORDER}", self._on("query", self._partner_query)),
            Route(f"/v3/combine-{_ORDER}", self._on("query", self._combined_query)),
            Route(f"/v3/pay/{_ORDER}/close", self._on("close", self._close), methods=["POST"]),
            Route(f"/v3/pay/partner/{_ORDER}/close", self._on("close", self._partner_close), methods=["POST"]),
            Route(f"/v3/combine-{_ORDER}/close", self._on("close", self._combined_close), methods=["POST"]),
            Route("/v3/refund/domestic/refunds", self._on("refund", self._refund), methods=["POST"]),
            Route("/v3/refund/domestic/refunds/{out_refund_no}", self._on("refund_query", self._refund_query)),
            Route("/v3/certificates", self._on("certificates", self._list_certificates)),
            Route("/v3/security/echo", self._on("echo", self._echo), methods=["POST"]),
            Route("/sim/api-faults", self._plan_fault, methods=["POST"]),
            Route("/sim/refund-plan", self._plan_refund, methods=["POST"]),
        ]

    def refund(
        self, transaction: Mapping[str, Any], out_refund_no: str, refund_fen: int, status: str
    ) -> dict[str, Any]:
        """What the notice of a refund says, and the ledger keeps."""
        refund = {
            "mchid": MCHID,
            "out_trade_no": transaction["out_trade_no"],
            "transaction_id": transaction["transaction_id"],
            "out_refund_no": out_refund_no,
            "refund_id": f"5030{self._sim.chance('refund', out_refund_no).randrange(10**24):024d}",
            "refund_status": status,
            "user_received_account": "支付用户零钱",
            "amount": {
                "total": transaction["amount"]["total"],
                "refund": refund_fen,
                "payer_total": transaction["amount"]["payer_total"],
                "payer_refund": refund_fen,
            },
        }
        if status == "SUCCESS":
            refund["success_time"] = beijing_now()
        with self._ledger.transaction():
            self._ledger.put("refund", out_refund_no, refund)
            if status != "CLOSED":  # WeChat says REFUND for a partial one, too
                self._ledger.put("transaction", transaction["out_trade_no"], {**transaction, "trade_state": "REFUND"})
        return refund

    def _on(self, call: str, answer: Callable[[Request, bytes], Said]) -> Callable[[Request], Any]:
        async def endpoint(request: Request) -> Response:
            body = await request.body()
            self._ledger.append("call", call, {"call": call, "path": request.url.path, "at": time.time()})
            if not self._authentic(request, body):
                return refusal(401, "SIGN_ERROR", "签名错误")
            fault = self._faults.next(call)
            if fault is Fault.UNREACHED:
                return Response("<html>Bad Gateway</html>", 502, media_type="text/html")
            status, said = answer(request, body)
            return await self._signed(request, status, said, fault)

        return endpoint

    async def _signed(
        self, request: Request, status: int, said: dict[str, Any] | None, fault: Fault | None
    ) -> Response:
        match fault:
            case Fault.LOST:
                return Response("<html>Gateway Time-out</html>", 504, media_type="text/html")
            case Fault.LATER:
                return refusal(500, "SYSTEM_ERROR", "系统错误")
            case Fault.HANG:
                await asyncio.sleep(_HANG_SECONDS)
            case _:
                pass
        if status >= 400:
            return JSONResponse(said, status)
        body = json.dumps(said, ensure_ascii=False).encode() if said is not None else b""
        headers = {} if fault is Fault.UNSIGNED else self._signature(request, body, fault)
        return Response(body, status, headers=headers, media_type="application/json" if body else None)

    def _signature(self, request: Request, body: bytes, fault: Fault | None) -> dict[str, str]:
        asked = request.headers.get("wechatpay-serial", "")
        mode = KeyMode.PUBLIC_KEY if asked.startswith("PUB_KEY_ID_") else KeyMode.CERTIFICATE
        chance = self._sim.chance("answer", time.time_ns())
        serial, key = self._certificates.signer(mode, chance)
        if fault is Fault.FORGED:
            key = self._keys.attacker
        headers = signature_headers(serial, key, timestamp=int(time.time()), nonce=random_text(chance, 32), body=body)
        if fault is Fault.PROBE:
            headers["Wechatpay-Signature"] = ("WECHATPAY/SIGNTEST/" + headers["Wechatpay-Signature"])[:344]
        return headers

    def _list_certificates(self, _: Request, __: bytes) -> Said:
        return 200, self._certificates.listed()

    def _echo(self, request: Request, body: bytes) -> Said:
        """Answers, and notifies in the same key mode. [WXDOC 4014551946]"""
        said = json.loads(body)
        mode = self._certificates.mode(request.headers.get("wechatpay-serial", ""))
        if mode is None or not said.get("echo_message"):
            return 400, {"code": "PARAM_ERROR", "message": "Wechatpay-Serial 或 echo_message 有误"}
        if said.get("notify_url") and self.echoed is not None:
            self.echoed(said["echo_message"], said["notify_url"], mode)
        return 200, {"echo_message": said["echo_message"]}

    def _query(self, request: Request, _: bytes) -> Said:
        order_no = request.path_params["out_trade_no"]
        known = self._known(order_no)
        if known is None or request.query_params.get("mchid") != MCHID or self._ledger.get("combined", order_no):
            return _not_there("ORDER_NOT_EXIST")
        return 200, known

    def _partner_query(self, request: Request, _: bytes) -> Said:
        known = self._known(request.path_params["out_trade_no"])
        if known is None or request.query_params.get("sp_mchid") != MCHID or "sub_mchid" not in request.query_params:
            return _not_there("ORDER_NOT_EXIST")
        own = {name: value for name, value in known.items() if name not in {"mchid", "appid"}}
        return 200, own | {"sp_mchid": MCHID, "sp_appid": APPID, "sub_mchid": request.query_params["sub_mchid"]}

    def _combined_query(self, request: Request, _: bytes) -> Said:
        order_no = request.path_params["out_trade_no"]
        known = self._known(order_no)
        if known is None or not self._ledger.get("combined", order_no):
            return _not_there("ORDER_NOT_EXIST")
        amount = dict(known["amount"])
        sub_amount = {"total_amount": amount.pop("total"), "payer_amount": amount.pop("payer_total", None)}
        sub = known | {"amount": {**sub_amount, **amount}}
        return 200, {
            "combine_appid": APPID,
            "combine_mchid": MCHID,
            "combine_out_trade_no": order_no,
            "sub_orders": [sub],
        }

    def _known(self, order_no: str) -> dict[str, Any] | None:
        """A paid order, or one that only waits to be paid."""
        return self._ledger.get("transaction", order_no) or self._ledger.get("prepaid", order_no)

    def _close(self, request: Request, body: bytes) -> Said:
        order_no = request.path_params["out_trade_no"]
        if json.loads(body) != {"mchid": MCHID} or self._ledger.get("combined", order_no):
            return _not_there("ORDER_NOT_EXIST")
        return self._closed(order_no)

    def _partner_close(self, request: Request, body: bytes) -> Said:
        said = json.loads(body)
        if said.keys() != {"sp_mchid", "sub_mchid"} or said["sp_mchid"] != MCHID:
            return 400, {"code": "PARAM_ERROR", "message": "sp_mchid 或 sub_mchid 有误"}
        return self._closed(request.path_params["out_trade_no"])

    def _combined_close(self, request: Request, body: bytes) -> Said:
        order_no = request.path_params["out_trade_no"]
        if not self._ledger.get("combined", order_no):
            return _not_there("ORDER_NOT_EXIST")
        if json.loads(body) != {
            "combine_appid": APPID,
            "sub_orders": [{"mchid": MCHID, "out_trade_no": order_no}],
        }:
            return 400, {"code": "PARAM_ERROR", "message": "combine_appid 或 sub_orders 有误"}
        return self._closed(order_no)

    def _closed(self, order_no: str) -> Said:
        if self._ledger.get("transaction", order_no) is not None:
            return 400, {"code": "ORDERPAID", "message": "该订单已支付"}
        waiting = self._ledger.get("prepaid", order_no)
        if waiting is None:
            return _not_there("ORDER_NOT_EXIST")
        self._ledger.put("prepaid", order_no, waiting | {"trade_state": "CLOSED"})
        return 204, None

    def _refund(self, _: Request, body: bytes) -> Said:
        wish = json.loads(body)
        transaction = next(
            (one for one in self._ledger.all("transaction") if one["transaction_id"] == wish.get("transaction_id")),
            None,
        )
        if transaction is None:
            return _not_there("RESOURCE_NOT_EXISTS")
        number, amount = wish["out_refund_no"], wish["amount"]
        known = self._ledger.get("refund", number)
        if known is None:
            before = [one["amount"]["refund"] for one in self._ledger.all("refund")
                      if one["transaction_id"] == transaction["transaction_id"]
                      and one["refund_status"] != "CLOSED"]  # fmt: skip
            if amount["total"] != transaction["amount"]["total"] or sum(before) + amount["refund"] > amount["total"]:
                return 400, {"code": "INVALID_REQUEST", "message": "订单金额或退款金额与之前请求不一致"}
            if (self._ledger.get("refund_plan", number) or {}).get("refuse"):
                return 403, {"code": "NOT_ENOUGH", "message": "基本账户余额不足"}
            known = self._begin(transaction, number, amount["refund"])
        elif known["amount"]["refund"] != amount["refund"]:
            return 400, {"code": "INVALID_REQUEST", "message": "订单金额或退款金额与之前请求不一致"}
        return 200, self._spoken(known)

    def _begin(self, transaction: Mapping[str, Any], number: str, refund_fen: int) -> dict[str, Any]:
        """Money moves later; what the merchant hears then is decided now."""
        plan = self._ledger.get("refund_plan", number) or {}
        refund = self.refund(transaction, number, refund_fen, plan.get("status", "SUCCESS"))
        self._ledger.put("refund_due", number, {"at": time.time() + self._sim.delay(SETTLES_AFTER)})
        if plan.get("notify", True):
            self._refunded(refund, SETTLES_AFTER)
        return refund

    def _refund_query(self, request: Request, _: bytes) -> Said:
        refund = self._ledger.get("refund", request.path_params["out_refund_no"])
        return _not_there("RESOURCE_NOT_EXISTS") if refund is None else (200, self._spoken(refund))

    def _spoken(self, refund: Mapping[str, Any]) -> dict[str, Any]:
        """A refund as answers tell it: other names than in the notice, and on its way for a while."""
        due = self._ledger.get("refund_due", refund["out_refund_no"])
        status = "PROCESSING" if due is not None and time.time() < due["at"] else refund["refund_status"]
        hidden = {"mchid", "refund_status", "success_time"}
        said = {name: value for name, value in refund.items() if name not in hidden}
        if status == "SUCCESS":
            said["success_time"] = refund["success_time"]
        return said | {"status": status, "channel": "ORIGINAL", "create_time": beijing_now()}

    async def _plan_fault(self, request: Request) -> Response:
        self._faults.plan(await request.body())
        return JSONResponse({}, 201)

    async def _plan_refund(self, request: Request) -> Response:
        """`{out_refund_no, status?, notify?, refuse?}`: how a refund that is asked for will end."""
        plan = json.loads(await request.body())
        self._ledger.put("refund_plan", plan["out_refund_no"], plan)
        return JSONResponse({}, 201)

    def _authentic(self, request: Request, body: bytes) -> bool:
        scheme, _, rest = request.headers.get("authorization", "").partition(" ")
        said = dict(_AUTHORIZATION.findall(rest))
        if scheme != "WECHATPAY2-SHA256-RSA2048" or said.get("mchid") != MCHID:
            return False
        if said.get("serial_no") != self._keys.merchant_serial:
            return False
        target = request.scope["raw_path"].decode()
        if request.url.query:
            target += f"?{request.url.query}"
        head = f"{request.method}\n{target}\n{said.get('timestamp')}\n{said.get('nonce_str')}\n"
        try:
            signature = base64.b64decode(said.get("signature", ""), validate=True)
            message = head.encode() + body + b"\n"
            self._keys.merchant.verify(signature, message, padding.PKCS1v15(), hashes.SHA256())
        except (ValueError, InvalidSignature):
            return False
        return True


def beijing_now() -> str:
    return datetime.now(BEIJING).isoformat(timespec="seconds")


def refusal(status: int, code: str, message: str) -> Response:
    return JSONResponse({"code": code, "message": message}, status)


def _not_there(code: str) -> Said:
    return 404, {"code": code, "message": "订单不存在"}
