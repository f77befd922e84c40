"""Notices as Alipay would send them, made with the simulator's keys and none of payment-callback's code."""

from collections.abc import Mapping
from urllib.parse import urlencode

from orderloop_lab.simulators.alipay_keys import APP_ID, SELLER_ID, Keys, form_signature
from tests.support.wechat import Sent

ORDER_NO = "261122093015ABCDEFGH1234"
TRADE_NO = "2026112222001455621234567890"


def trade(**changes: str) -> dict[str, str]:
    return {
        "notify_time": "2026-11-22 17:30:16",
        "notify_type": "trade_status_sync",
        "notify_id": "2026112200222173016055621234567890",
        "app_id": APP_ID,
        "auth_app_id": APP_ID,
        "version": "1.0",
        "trade_no": TRADE_NO,
        "out_trade_no": ORDER_NO,
        "buyer_id": "2088101117955611",
        "buyer_logon_id": "159****5620",
        "seller_id": SELLER_ID,
        "trade_status": "TRADE_SUCCESS",
        "total_amount": "99.00",
        "receipt_amount": "99.00",
        "buyer_pay_amount": "98.50",
        "subject": "一件好东西 & 另一件+100%",
        "body": "",
        "gmt_create": "2026-11-22 17:30:00",
        "gmt_payment": "2026-11-22 17:30:15",
    } | changes


def refund(number: str = "R1", total: str = "1.00", **changes: str) -> dict[str, str]:
    """`total`: given back so far, this one included."""
    return trade(out_biz_no=number, refund_fee=total, gmt_refund="2026-11-23 10:00:00.120", **changes)


def send(
    keys: Keys, fields: Mapping[str, str], *, charset: str = "utf-8", named: str | None = None, empty: bool = True
) -> Sent:
    """A whole notice. `empty`: whether empty values are signed; `named`: the charset that the form claims."""
    form = dict(fields) | {"charset": named or charset}
    sign = form_signature(keys.alipay, form, charset, empty=empty)
    body = urlencode(form | {"sign": sign, "sign_type": "RSA2"}, encoding=charset).encode()
    return Sent({"Content-Type": f"application/x-www-form-urlencoded; charset={charset}"}, body)
