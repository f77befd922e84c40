"""WeChat Pay, as a merchant meets it: takes payments, notifies, answers queries, and knows what really happened.

    python -m orderloop_lab.simulators.wechat prepare    make the keys in SIM_STATE, print the merchant's settings
    python -m orderloop_lab.simulators.wechat            serve

Environment: as in `ledger`, and SIM_NOTIFY_URL, the merchant's notify URL (a request may name another).
`GET /sim/ledger` is the channel's own truth: every transaction, every notice, every attempt and its answer.
"""

import json
import os
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .ledger import Simulator, run
from .wechat_api import Api, beijing_now, refusal
from .wechat_certificates import Certificates
from .wechat_keys import APPID, MCHID, KeyMode, Keys, open_keys, prepare
from .wechat_notices import Faults, Post


class _Order(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    out_trade_no: str = Field(pattern=r"^[0-9A-Za-z_\-|*]{6,32}$")
    notify_url: str | None = None
    faults: Faults = Faults()  # pyright: ignore[reportCallIssue]  # every field has a default


class PayRequest(_Order):
    amount_fen: int = Field(ge=1, strict=True)
    currency: str = "CNY"
    openid: str = "oUpF8uMuAJO_M2pxb1Q9zNjWeS6o"
    attach: str = ""
    combined: bool = False  # the ordinary query does not know it, the combined one does


class RefundRequest(_Order):
    out_refund_no: str = Field(min_length=1, max_length=64)
    refund_fen: int = Field(ge=1, strict=True)
    status: str = Field("SUCCESS", pattern="^(SUCCESS|ABNORMAL|CLOSED)$")


class NoticeRequest(BaseModel):
    """A notice of any shape at all, e.g. profit sharing, a combined order, a security echo."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    about: str
    event_type: str
    original_type: str
    plaintext: dict[str, Any]
    summary: str = ""
    notify_url: str | None = None
    faults: Faults = Faults()  # pyright: ignore[reportCallIssue]


class WeChatPay:
    def __init__(self, sim: Simulator, keys: Keys, certificates: Certificates, post: Post, notify_url: str) -> None:
        self._sim = sim
        self._ledger = sim.ledger
        self._keys = keys
        self._post = post
        self._notify_url = notify_url
        self.api = Api(sim, keys, certificates, self._notify_refund)
        self.api.echoed = self._notify_echo

    async def prepay(self, request: Request) -> Response:
        """The payer has seen the payment page: from now on the order can be asked for, unpaid."""
        order = PayRequest.model_validate_json(await request.body())
        waiting = {
            "mchid": MCHID,
            "appid": APPID,
            "out_trade_no": order.out_trade_no,
            "trade_state": "NOTPAY",
            "trade_state_desc": "订单未支付",
            "amount": {"total": order.amount_fen, "currency": order.currency},
        }
        if not self._ledger.add("prepaid", order.out_trade_no, waiting):
            return refusal(409, "OUT_TRADE_NO_USED", "商户订单号重复")
        self._note_combined(order)
        return JSONResponse({}, 201)

    async def pay(self, request: Request) -> Response:
        order = PayRequest.model_validate_json(await request.body())
        now = beijing_now()
        if (self._ledger.get("prepaid", order.out_trade_no) or {}).get("trade_state") == "CLOSED":
            return refusal(409, "ORDER_CLOSED", "订单已关闭")
        transaction = {
            "mchid": MCHID,
            "appid": APPID,
            "out_trade_no": order.out_trade_no,
            "transaction_id": f"4200{self._sim.chance('transaction', order.out_trade_no).randrange(10**24):024d}",
            "trade_type": "JSAPI",
            "trade_state": "SUCCESS",
            "trade_state_desc": "支付成功",
            "bank_type": "OTHERS",
            "attach": order.attach,
            "success_time": now,
            "payer": {"openid": order.openid},
            "amount": {
                "total": order.amount_fen,
                "payer_total": order.amount_fen,
                "currency": order.currency,
                "payer_currency": order.currency,
            },
        }
        if not self._ledger.add("transaction", order.out_trade_no, transaction):
            return refusal(409, "ORDERPAID", "该订单已支付")
        self._note_combined(order)
        notice = self._notify(order, "TRANSACTION.SUCCESS", "transaction", "支付成功", transaction)
        return JSONResponse({"transaction": transaction, "notice_id": notice["notice_id"]}, 201)

    def _note_combined(self, order: PayRequest) -> None:
        if order.combined:
            self._ledger.put("combined", order.out_trade_no, {"combine_out_trade_no": order.out_trade_no})

    async def refund(self, request: Request) -> Response:
        asked = RefundRequest.model_validate_json(await request.body())
        transaction = self._ledger.get("transaction", asked.out_trade_no)
        if transaction is None:
            return refusal(404, "ORDER_NOT_EXIST", "订单不存在")
        refund = self.api.refund(transaction, asked.out_refund_no, asked.refund_fen, asked.status)
        notice = self._notify(asked, f"REFUND.{asked.status}", "refund", "退款", refund)
        return JSONResponse({"refund": refund, "notice_id": notice["notice_id"]}, 201)

    def _notify_refund(self, refund: dict[str, Any], seconds: float) -> None:
        about = _Order(out_trade_no=refund["out_trade_no"], faults=Faults.model_validate({"delay": seconds}))
        self._notify(about, f"REFUND.{refund['refund_status']}", "refund", "退款", refund)

    def _notify_echo(self, message: str, url: str, mode: KeyMode) -> None:
        told = {"echo_message": message, "encrypt_echo_message": ""}
        notice = self._draft(f"echo {message}", "SECURITY_ECHO.SUCCESS", "security", "", told)
        self._post.start(notice | {"url": url}, Faults.model_validate({"key_mode": mode, "associated_data": ""}))

    async def notice(self, request: Request) -> Response:
        asked = NoticeRequest.model_validate_json(await request.body())
        notice = self._draft(asked.about, asked.event_type, asked.original_type, asked.summary, asked.plaintext)
        self._post.start(notice | {"url": asked.notify_url or self._notify_url}, asked.faults)
        return JSONResponse({"notice_id": notice["notice_id"]}, 201)

    async def probe(self, request: Request) -> Response:
        """A signature probe, once; answers with what the merchant said."""
        return await self._once(request, {"probe": 1})

    async def forge(self, request: Request) -> Response:
        """A payment that never happened, signed by a stranger, once; answers with what the merchant said."""
        return await self._once(request, {"forge": 1})

    async def keys(self, _: Request) -> Response:
        return JSONResponse(self._keys.as_json())

    async def ledger(self, request: Request) -> Response:
        """Everything, or what concerns `?out_trade_no=`."""
        wanted = request.query_params.get("out_trade_no")

        def about(documents: list[dict[str, Any]], field: str) -> list[dict[str, Any]]:
            return [document for document in documents if wanted is None or document[field] == wanted]

        return JSONResponse(
            {
                "transactions": about(self._ledger.all("transaction"), "out_trade_no"),
                "refunds": about(self._ledger.all("refund"), "out_trade_no"),
                "notices": about(self._ledger.all("notice"), "about"),
                "attempts": about(self._ledger.all("attempt"), "about"),
                "calls": self._ledger.lines("call"),
            }
        )

    async def under_way(self, _: Request) -> Response:
        """How many notices are neither acknowledged nor given up; a cheap question."""
        return JSONResponse({"notices": self._post.under_way})

    def _notify(
        self, order: _Order, event_type: str, original_type: str, summary: str, plaintext: Mapping[str, Any]
    ) -> dict[str, Any]:
        told = {**plaintext, **order.faults.overrides}
        notice = self._draft(order.out_trade_no, event_type, original_type, summary, told)
        notice["url"] = order.notify_url or self._notify_url
        self._post.start(notice, order.faults)
        return notice

    def _draft(
        self, about: str, event_type: str, original_type: str, summary: str, plaintext: Mapping[str, Any]
    ) -> dict[str, Any]:
        self._ledger.append("notice_id", about, {"event_type": event_type})
        nth = len(self._ledger.lines("notice_id", about))
        bits = self._sim.chance("notice", about, nth).getrandbits(128)
        return {
            "notice_id": str(uuid.UUID(int=bits, version=4)),
            "about": about,
            "create_time": beijing_now(),
            "event_type": event_type,
            "original_type": original_type,
            "summary": summary,
            "plaintext": dict(plaintext),
        }

    async def _once(self, request: Request, fault: dict[str, int]) -> Response:
        order = PayRequest.model_validate_json(await request.body())
        plaintext = {
            "mchid": MCHID,
            "appid": APPID,
            "out_trade_no": order.out_trade_no,
            "transaction_id": f"4200{self._sim.chance('never', order.out_trade_no).randrange(10**24):024d}",
            "trade_type": "JSAPI",
            "trade_state": "SUCCESS",
            "success_time": beijing_now(),
            "payer": {"openid": order.openid},
            "amount": {"total": order.amount_fen, "payer_total": order.amount_fen, "currency": order.currency},
        }
        plaintext |= order.faults.overrides
        notice = self._draft(order.out_trade_no, "TRANSACTION.SUCCESS", "transaction", "支付成功", plaintext)
        notice |= {"url": order.notify_url or self._notify_url}
        faults = order.faults.model_copy(update=fault)
        await self._post.send(notice, faults, 1, 0)
        [attempt] = self._ledger.below("attempt", notice["notice_id"])
        return JSONResponse({"notice_id": notice["notice_id"], "attempt": attempt})


def _bad_request(message: str) -> Response:
    return refusal(400, "PARAM_ERROR", message)


def build(sim: Simulator) -> Starlette:
    keys = open_keys(sim.state)
    certificates = Certificates(sim, keys)
    post = Post(sim, keys, certificates)
    channel = WeChatPay(sim, keys, certificates, post, os.environ.get("SIM_NOTIFY_URL", ""))
    return post.application(
        [
            Route("/sim/prepay", channel.prepay, methods=["POST"]),
            Route("/sim/pay", channel.pay, methods=["POST"]),
            Route("/sim/refund", channel.refund, methods=["POST"]),
            Route("/sim/notice", channel.notice, methods=["POST"]),
            Route("/sim/probe", channel.probe, methods=["POST"]),
            Route("/sim/forge", channel.forge, methods=["POST"]),
            Route("/sim/keys", channel.keys),
            Route("/sim/ledger", channel.ledger),
            Route("/sim/ledger/under-way", channel.under_way),
            *channel.api.routes(),
            *certificates.routes(),
        ],
        _bad_request,
    )


if __name__ == "__main__":
    if sys.argv[1:] == ["prepare"]:
        print(json.dumps(prepare(Path(os.environ["SIM_STATE"])), indent=2))
    else:
        run("wechat", build)
