"""What of a channel's notice people may see. Pure.

Named are the fields that hold nobody's data; whatever else a channel sends, today or tomorrow, is shown by its length.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

_NAMES = (
    # WeChat Pay: the envelope, payments, combined payments, refunds, profit sharing, the self-test
    "id create_time resource_type event_type summary original_type algorithm echo_message "
    "appid mchid sp_appid sp_mchid sub_appid sub_mchid combine_appid combine_mchid combine_out_trade_no out_trade_no "
    "transaction_id trade_type trade_state trade_state_desc bank_type success_time total payer_total currency "
    "payer_currency total_amount payer_amount refund_id out_refund_no refund_status refund payer_refund amount "
    "coupon_id scope stock_id wechatpay_contribute merchant_contribute other_contribute order_id out_order_no type "
    # Alipay
    "notify_id notify_type notify_time trade_no trade_status app_id seller_id receipt_amount "
    "invoice_amount buyer_pay_amount point_amount refund_fee gmt_create gmt_payment gmt_refund gmt_close out_biz_no "
    "charset version sign_type auth_app_id"
)
_SHOWN = frozenset(_NAMES.split())
# A mobile number is nobody's business wherever it stands.
_PHONE = re.compile(r"(?<![0-9])1[3-9][0-9]{9}(?![0-9])")
# Their values are objects; what is inside is judged by its own name.
_OPENED = frozenset({"amount", "resource", "sub_orders", "promotion_detail", "scene_info", "receiver"})


def mask(content: Mapping[str, Any]) -> dict[str, Any]:
    """The same fields, those that may hold personal data or secrets blanked out."""
    return {name: _masked(name, value) for name, value in content.items()}


def _masked(name: str, value: Any) -> Any:
    if isinstance(value, Mapping) and (name in _OPENED or name in _SHOWN):
        return mask(value)
    if isinstance(value, Sequence) and not isinstance(value, str | bytes) and name in _OPENED:
        return [_masked(name, one) for one in value]
    if name in _SHOWN and isinstance(value, str | int | float | bool | None) and not _PHONE.search(str(value)):
        return value
    if isinstance(value, Mapping):
        return {inner: _hidden(one) for inner, one in value.items()}
    return _hidden(value)


def _hidden(value: Any) -> str:
    return f"•••• ({len(value)})" if isinstance(value, str) else "••••"
