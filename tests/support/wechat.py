"""Notices as WeChat Pay would send them, made with the simulator's keys and none of payment-callback's code."""

import json
import random
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from orderloop_lab.simulators.wechat_keys import APPID, MCHID, KeyMode, Keys, encrypt, random_text, signature_headers

ORDER_NO = "261122093015ABCDEFGH1234"
TRANSACTION_ID = "4200001234567890123456789012"


@dataclass(frozen=True, slots=True)
class Sent:
    headers: dict[str, str]
    body: bytes

    @property
    def lower(self) -> dict[str, str]:
        """Header names as a service sees them."""
        return {name.lower(): value for name, value in self.headers.items()}


def transaction(**changes: Any) -> dict[str, Any]:
    return {
        "mchid": MCHID,
        "appid": APPID,
        "out_trade_no": ORDER_NO,
        "transaction_id": TRANSACTION_ID,
        "trade_type": "JSAPI",
        "trade_state": "SUCCESS",
        "trade_state_desc": "支付成功",
        "bank_type": "OTHERS",
        "attach": "",
        "success_time": "2026-11-22T17:30:15+08:00",
        "payer": {"openid": "oUpF8uMuAJO_M2pxb1Q9zNjWeS6o"},
        "amount": {"total": 9900, "payer_total": 9800, "currency": "CNY", "payer_currency": "CNY"},
    } | changes


def refund(**changes: Any) -> dict[str, Any]:
    return {
        "mchid": MCHID,
        "transaction_id": TRANSACTION_ID,
        "out_trade_no": ORDER_NO,
        "refund_id": "50300001234567890123456789012",
        "out_refund_no": "R1",
        "refund_status": "SUCCESS",
        "success_time": "2026-11-23T10:00:00+08:00",
        "user_received_account": "支付用户零钱",
        "amount": {"total": 9900, "refund": 100, "payer_total": 9800, "payer_refund": 99},
    } | changes


def combined(*orders: tuple[str, str]) -> dict[str, Any]:
    """`orders`: (out_trade_no, transaction_id)."""
    return {
        "combine_mchid": MCHID,
        "combine_appid": APPID,
        "combine_out_trade_no": "C20261122",
        "combine_payer_info": {"openid": "oUpF8uMuAJO_M2pxb1Q9zNjWeS6o"},
        "sub_orders": [
            {
                "mchid": "1900000109",
                "trade_type": "JSAPI",
                "trade_state": "SUCCESS",
                "bank_type": "OTHERS",
                "attach": "",
                "success_time": "2026-11-22T17:30:15.120+08:00",
                "transaction_id": transaction_id,
                "out_trade_no": out_trade_no,
                "amount": {"total_amount": 100, "payer_amount": 90, "currency": "CNY", "payer_currency": "CNY"},
            }
            for out_trade_no, transaction_id in orders
        ],
    }


def _partner() -> dict[str, Any]:
    own = {name: value for name, value in transaction().items() if name not in {"mchid", "appid"}}
    provider = {"sp_mchid": MCHID, "sp_appid": APPID, "sub_mchid": "1900000109", "sub_appid": "wx1"}
    return own | provider | {"payer": {"sp_openid": "oUpF8uMuAJO_M2pxb1Q9zNjWeS6o", "sub_openid": "o2"}}


_PROMOTION = {
    "coupon_id": "109519",
    "name": "单品惠-6",
    "scope": "SINGLE",
    "type": "CASH",
    "amount": 100,
    "stock_id": "931386",
    "wechatpay_contribute": 100,
    "merchant_contribute": 0,
    "other_contribute": 0,
    "currency": "CNY",
    "goods_detail": [
        {"goods_id": "M1006", "quantity": 1, "unit_price": 100, "discount_amount": 1, "goods_remark": "商品备注"}
    ],
}
# A notice of every kind with every documented field, by its name.
SHAPES: dict[str, dict[str, Any]] = {
    "transaction": transaction(scene_info={"device_id": "013467007045764"}, promotion_detail=[_PROMOTION]),
    "partner": _partner(),
    "combined": combined((ORDER_NO, "T1")),
    "refund": refund(),
    "profit_sharing": {
        "mchid": MCHID,
        "transaction_id": TRANSACTION_ID,
        "order_id": "3008450740201411110007820472",
        "out_order_no": "P1",
        "receiver": {"type": "MERCHANT_ID", "account": "190001001", "amount": 888, "description": "分账"},
        "success_time": "2026-11-22T17:30:15+08:00",
    },
    "echo": {"echo_message": "hello", "encrypt_echo_message": "x"},
}
_ODD = (None, True, -1, 10**30, 0.5, "", "\0", "x" * 70, "9999-12-31T23:59:59-14:00", [], [None], {}, {"total": None})


def bent(content: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The same content with one field missing or of another form: (which one, the content)."""
    fields = content.items() if isinstance(content, dict) else enumerate(content)
    for name, value in fields:
        place = f"{path}.{name}".lstrip(".")
        rest = [one for one in fields if one[0] != name]
        if isinstance(content, dict):
            yield place, dict(rest)
        changed = [(odd, place) for odd in _ODD if odd != value]
        if isinstance(value, dict | list) and value:
            changed += [(inner, deeper) for deeper, inner in bent(value, place)]
        for odd, where in changed:
            if isinstance(content, dict):
                yield where, content | {name: odd}
            else:
                yield where, [odd if number == name else one for number, one in enumerate(content)]


def send(
    keys: Keys,
    plaintext: Mapping[str, Any],
    *,
    mode: KeyMode = KeyMode.PUBLIC_KEY,
    at: float | None = None,
    event_type: str = "TRANSACTION.SUCCESS",
    original_type: str = "transaction",
    associated_data: str = "transaction",
    nonce: str | None = None,
) -> Sent:
    """A whole notice, signed at `at` (seconds since 1970; now)."""
    resource_nonce = random_text(random.Random(), 12)
    envelope = {
        "id": "EV-2026112217301500001",
        "create_time": "2026-11-22T17:30:15+08:00",
        "resource_type": "encrypt-resource",
        "event_type": event_type,
        "summary": "支付成功",
        "resource": {
            "original_type": original_type,
            "algorithm": "AEAD_AES_256_GCM",
            "ciphertext": encrypt(keys.apiv3_key, plaintext, nonce=resource_nonce, associated_data=associated_data),
            "associated_data": associated_data,
            "nonce": resource_nonce,
        },
    }
    return sign(keys, json.dumps(envelope, ensure_ascii=False).encode(), mode=mode, at=at, nonce=nonce)


def sign(
    keys: Keys,
    body: bytes,
    *,
    mode: KeyMode = KeyMode.PUBLIC_KEY,
    at: float | None = None,
    nonce: str | None = None,
) -> Sent:
    """Any body, authentic."""
    serial, key = keys.signer(mode, random.Random())
    headers = signature_headers(
        serial,
        key,
        timestamp=int(time.time() if at is None else at),
        nonce=nonce or random_text(random.Random(), 32),
        body=body,
    )
    return Sent(headers | {"Content-Type": "application/json"}, body)
