"""Alipay, as a merchant meets it: takes payments, notifies by signed forms, answers its gateway, keeps a ledger.

    python -m orderloop_lab.simulators.alipay prepare    make the keys in SIM_STATE, print the merchant's settings
    python -m orderloop_lab.simulators.alipay            serve

Environment: as in `ledger`, and SIM_NOTIFY_URL, the merchant's notify URL (a request may name another).
"""

import asyncio
import json
import os
import sys
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from pydantic import BaseModel, ConfigDict, Field
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .alipay_keys import APP_ID, SELLER_ID, Keys, is_signed_by_app, open_keys, prepare, signed_answer
from .alipay_notices import Faults, Post
from .api_faults import ApiFaults, Fault
from .ledger import Simulator, run

BEIJING = timezone(timedelta(hours=8))
_HANG_SECONDS = 30  # longer than any caller waits


class _About(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    out_trade_no: str = Field(pattern=r"^[0-9A-Za-z_]{6,64}$")
    notify_url: str | None = None
    faults: Faults = Faults()  # pyright: ignore[reportCallIssue]  # every field has a default


class PayRequest(_About):
    amount_fen: int = Field(ge=1, strict=True)
    subject: str = "一件好东西"
    finished: bool = False  # tells TRADE_FINISHED, and TRADE_SUCCESS never


class RefundRequest(_About):
    out_request_no: str = Field(min_length=1, max_length=64)
    refund_fen: int = Field(ge=1, strict=True)


class Alipay:
    def __init__(self, sim: Simulator, keys: Keys, post: Post, notify_url: str) -> None:
        self._sim = sim
        self._ledger = sim.ledger
        self._keys = keys
        self._post = post
        self._notify_url = notify_url
        self._api_faults = ApiFaults()
        self._methods: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
            "alipay.trade.query": self._query,
            "alipay.trade.close": self._close,
            "alipay.trade.refund": self._refund,
            "alipay.trade.fastpay.refund.query": self._refund_query,
        }

    async def open(self, request: Request) -> Response:
        """The payer has opened the cashier: from now on the trade exists, unpaid."""
        asked = PayRequest.model_validate_json(await request.body())
        if not self._ledger.add("trade", asked.out_trade_no, self._trade(asked, "WAIT_BUYER_PAY")):
            return JSONResponse({"code": "ACQ.CONTEXT_INCONSISTENT"}, 409)
        return JSONResponse({}, 201)

    async def pay(self, request: Request) -> Response:
        asked = PayRequest.model_validate_json(await request.body())
        known = self._ledger.get("trade", asked.out_trade_no)
        if known is not None and known["trade_status"] != "WAIT_BUYER_PAY":
            return JSONResponse({"code": "ACQ.TRADE_HAS_CLOSE"}, 409)
        trade = self._trade(asked, "TRADE_FINISHED" if asked.finished else "TRADE_SUCCESS")
        trade["send_pay_date"] = _now()
        self._ledger.put("trade", asked.out_trade_no, trade)
        self._notify(asked, trade, {})
        return JSONResponse({"trade": trade}, 201)

    async def refund(self, request: Request) -> Response:
        """Somebody refunds on the channel's own web page."""
        asked = RefundRequest.model_validate_json(await request.body())
        wish = {"out_request_no": asked.out_request_no, "refund_amount": _yuan(asked.refund_fen)}
        said = self._refund(wish | {"out_trade_no": asked.out_trade_no}, about=asked)
        return JSONResponse(said, 201 if said["code"] == "10000" else 409)

    async def finish(self, request: Request) -> Response:
        """The trade can no longer be refunded: TRADE_FINISHED goes out."""
        asked = _About.model_validate_json(await request.body())
        trade = self._ledger.get("trade", asked.out_trade_no)
        if trade is None or trade["trade_status"] != "TRADE_SUCCESS":
            return JSONResponse({"code": "ACQ.TRADE_STATUS_ERROR"}, 409)
        trade["trade_status"] = "TRADE_FINISHED"
        self._ledger.put("trade", asked.out_trade_no, trade)
        self._notify(asked, trade, {})
        return JSONResponse({}, 201)

    async def expire(self, request: Request) -> Response:
        """The unpaid trade times out: TRADE_CLOSED goes out."""
        asked = _About.model_validate_json(await request.body())
        trade = self._ledger.get("trade", asked.out_trade_no)
        if trade is None or trade["trade_status"] != "WAIT_BUYER_PAY":
            return JSONResponse({"code": "ACQ.TRADE_STATUS_ERROR"}, 409)
        trade["trade_status"] = "TRADE_CLOSED"
        self._ledger.put("trade", asked.out_trade_no, trade)
        self._notify(asked, trade, {"gmt_close": _now()})
        return JSONResponse({}, 201)

    async def gateway(self, request: Request) -> Response:
        form = dict(parse_qsl((await request.body()).decode(), keep_blank_values=True))
        method = form.get("method", "")
        self._ledger.append("call", method, {"method": method, "biz_content": form.get("biz_content")})
        if form.get("app_id") != APP_ID or method not in self._methods or not is_signed_by_app(self._keys, form):
            said: dict[str, Any] = {"code": "40002", "msg": "Invalid Arguments", "sub_code": "isv.invalid-signature"}
            return Response(signed_answer(self._keys.alipay, "error", said), media_type="application/json")
        fault = self._api_faults.next(method)
        if fault is Fault.UNREACHED:
            return Response("<html>Bad Gateway</html>", 502, media_type="text/html")
        said = self._methods[method](json.loads(form["biz_content"]))
        return await self._answer(method, said, fault)

    async def _answer(self, method: str, said: Mapping[str, Any], fault: Fault | None) -> Response:
        if fault is Fault.LOST:
            return Response("<html>Gateway Time-out</html>", 504, media_type="text/html")
        if fault is Fault.HANG:
            await asyncio.sleep(_HANG_SECONDS)
        if fault is Fault.LATER:
            said = {"code": "20000", "msg": "Service Currently Unavailable", "sub_code": "isp.unknow-error"}
        key = self._keys.attacker if fault is Fault.FORGED else self._keys.alipay
        return Response(signed_answer(key, method, said), media_type="application/json;charset=utf-8")

    async def faults(self, request: Request) -> Response:
        self._api_faults.plan(await request.body())
        return JSONResponse({}, 201)

    async def ledger(self, request: Request) -> Response:
        """Everything, or what concerns `?out_trade_no=`."""
        wanted = request.query_params.get("out_trade_no")

        def about(documents: list[dict[str, Any]], field: str) -> list[dict[str, Any]]:
            return [document for document in documents if wanted is None or document[field] == wanted]

        return JSONResponse(
            {
                "trades": about(self._ledger.all("trade"), "out_trade_no"),
                "refunds": about(self._ledger.all("refund"), "out_trade_no"),
                "notices": about(self._ledger.all("notice"), "about"),
                "attempts": about(self._ledger.all("attempt"), "about"),
                "calls": self._ledger.lines("call"),
            }
        )

    def _trade(self, asked: PayRequest, status: str) -> dict[str, Any]:
        number = self._sim.chance("trade", asked.out_trade_no).randrange(10**20)
        return {
            "out_trade_no": asked.out_trade_no,
            "trade_no": f"20261122{number:020d}",
            "trade_status": status,
            "total_amount": _yuan(asked.amount_fen),
            "buyer_pay_amount": _yuan(asked.amount_fen),
            "receipt_amount": _yuan(asked.amount_fen),
            "buyer_logon_id": "159****5620",
            "buyer_user_id": "2088101117955611",
            "subject": asked.subject,
            "gmt_create": _now(),
        }

    def _query(self, wish: Mapping[str, Any]) -> dict[str, Any]:
        trade = self._find(wish)
        if trade is None:
            return _failed("ACQ.TRADE_NOT_EXIST", "交易不存在")
        hidden = {"subject", "gmt_create"}
        return _done({name: value for name, value in trade.items() if name not in hidden})

    def _close(self, wish: Mapping[str, Any]) -> dict[str, Any]:
        trade = self._find(wish)
        if trade is None:
            return _failed("ACQ.TRADE_NOT_EXIST", "交易不存在")
        if trade["trade_status"] != "WAIT_BUYER_PAY":
            return _failed("ACQ.TRADE_STATUS_ERROR", "交易状态不合法")
        self._ledger.put("trade", trade["out_trade_no"], trade | {"trade_status": "TRADE_CLOSED"})
        return _done({"out_trade_no": trade["out_trade_no"], "trade_no": trade["trade_no"]})

    def _refund(self, wish: Mapping[str, Any], about: _About | None = None) -> dict[str, Any]:
        trade = self._find(wish)
        if trade is None or "send_pay_date" not in trade:
            return _failed("ACQ.TRADE_NOT_EXIST", "交易不存在")
        number, amount = str(wish["out_request_no"]), Decimal(str(wish["refund_amount"]))
        before = [one for one in self._ledger.all("refund") if one["trade_no"] == trade["trade_no"]]
        total = sum((Decimal(one["refund_amount"]) for one in before), Decimal(0))
        known = next((one for one in before if one["out_request_no"] == number), None)
        if known is None:
            if total + amount > Decimal(trade["total_amount"]):
                return _failed("ACQ.REFUND_AMT_NOT_EQUAL_TOTAL", "退款金额超限")
            total += amount
            self._give_back(trade, number, amount, total, about)
        elif Decimal(known["refund_amount"]) != amount:
            return _failed("ACQ.DISCORDANT_REPEAT_REQUEST", "请求信息不一致")
        return _done(
            {
                "trade_no": trade["trade_no"],
                "out_trade_no": trade["out_trade_no"],
                "buyer_logon_id": trade["buyer_logon_id"],
                "fund_change": "N" if known else "Y",
                "refund_fee": f"{total:.2f}",
            }
        )

    def _give_back(
        self, trade: dict[str, Any], number: str, amount: Decimal, total: Decimal, about: _About | None
    ) -> None:
        whole = total == Decimal(trade["total_amount"])
        trade = trade | {"trade_status": "TRADE_CLOSED"} if whole else trade
        refund = {
            "trade_no": trade["trade_no"],
            "out_trade_no": trade["out_trade_no"],
            "out_request_no": number,
            "refund_amount": f"{amount:.2f}",
            "total_amount": trade["total_amount"],
            "gmt_refund_pay": _now(),
        }
        with self._ledger.transaction():
            self._ledger.put("refund", f"{trade['trade_no']}:{number}", refund)
            self._ledger.put("trade", trade["out_trade_no"], trade)
        told = {"out_biz_no": number, "refund_fee": f"{total:.2f}", "gmt_refund": refund["gmt_refund_pay"] + ".120"}
        self._notify(about or _About(out_trade_no=trade["out_trade_no"]), trade, told)

    def _refund_query(self, wish: Mapping[str, Any]) -> dict[str, Any]:
        refund = self._ledger.get("refund", f"{wish.get('trade_no')}:{wish.get('out_request_no')}")
        if refund is None:
            # Not an error: the answer merely says nothing of a refund.
            return _done({"trade_no": wish.get("trade_no"), "out_request_no": wish.get("out_request_no")})
        return _done(refund | {"refund_status": "REFUND_SUCCESS"})

    def _find(self, wish: Mapping[str, Any]) -> dict[str, Any] | None:
        if "out_trade_no" in wish:
            return self._ledger.get("trade", str(wish["out_trade_no"]))
        return next((one for one in self._ledger.all("trade") if one["trade_no"] == wish.get("trade_no")), None)

    def _notify(self, about: _About, trade: Mapping[str, Any], more: Mapping[str, str]) -> None:
        self._ledger.append("notify_id", about.out_trade_no, {"trade_status": trade["trade_status"]})
        nth = len(self._ledger.lines("notify_id", about.out_trade_no))
        notify_id = f"{self._sim.chance('notice', about.out_trade_no, nth).getrandbits(128):032x}"
        form = {
            "notify_time": _now(),
            "notify_type": "trade_status_sync",
            "notify_id": notify_id,
            "app_id": APP_ID,
            "auth_app_id": APP_ID,
            "version": "1.0",
            "trade_no": trade["trade_no"],
            "out_trade_no": trade["out_trade_no"],
            "buyer_id": trade["buyer_user_id"],
            "buyer_logon_id": trade["buyer_logon_id"],
            "seller_id": SELLER_ID,
            "trade_status": trade["trade_status"],
            "total_amount": trade["total_amount"],
            "buyer_pay_amount": trade["buyer_pay_amount"],
            "receipt_amount": trade["receipt_amount"],
            "subject": trade["subject"],
            "body": "",
            "gmt_create": trade["gmt_create"],
            **({"gmt_payment": trade["send_pay_date"]} if "send_pay_date" in trade else {}),
            **more,
        }
        url = about.notify_url or self._notify_url
        if url:
            notice = {"notify_id": notify_id, "about": about.out_trade_no, "url": url, "form": form}
            self._post.start(notice, about.faults)


def _done(said: Mapping[str, Any]) -> dict[str, Any]:
    return {"code": "10000", "msg": "Success", **said}


def _failed(sub_code: str, sub_msg: str) -> dict[str, Any]:
    return {"code": "40004", "msg": "Business Failed", "sub_code": sub_code, "sub_msg": sub_msg}


def _now() -> str:
    return datetime.now(BEIJING).strftime("%Y-%m-%d %H:%M:%S")


def _yuan(amount_fen: int) -> str:
    return f"{Decimal(amount_fen) / 100:.2f}"


def _bad_request(message: str) -> Response:
    return JSONResponse({"code": "40002", "msg": message}, 400)


def build(sim: Simulator) -> Starlette:
    keys = open_keys(sim.state)
    post = Post(sim, keys)
    channel = Alipay(sim, keys, post, os.environ.get("SIM_NOTIFY_URL", ""))
    return post.application(
        [
            Route("/sim/open", channel.open, methods=["POST"]),
            Route("/sim/pay", channel.pay, methods=["POST"]),
            Route("/sim/refund", channel.refund, methods=["POST"]),
            Route("/sim/finish", channel.finish, methods=["POST"]),
            Route("/sim/expire", channel.expire, methods=["POST"]),
            Route("/sim/api-faults", channel.faults, methods=["POST"]),
            Route("/sim/ledger", channel.ledger),
            Route("/gateway.do", channel.gateway, methods=["POST"]),
        ],
        _bad_request,
    )


if __name__ == "__main__":
    if sys.argv[1:] == ["prepare"]:
        print(json.dumps(prepare(Path(os.environ["SIM_STATE"])), indent=2))
    else:
        run("alipay", build)
