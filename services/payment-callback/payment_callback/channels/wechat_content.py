"""What WeChat Pay's notices hold once decrypted: every documented field, and others as they came. Pure.

Sources: wechatpay-go services/payments/models.go and wechatpay-java Transaction (payments), wechatpay-skills (combined
orders, refunds), WXDOC notice-division.html (profit sharing), 4014551946 (self-test).

What becomes an event is checked strictly. A field that no order needs never costs a payment: in another form than the
documented one it is kept as it came, too.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, StringConstraints

from orderloop.money import Fen

Value = TypeVar("Value")


def _moment(text: Any) -> datetime:
    """RFC 3339 with an offset, in a year that every database and every client can hold."""
    if not isinstance(text, str):
        raise ValueError("no text")
    moment = datetime.fromisoformat(text)
    offset = moment.utcoffset()
    if offset is None or abs(offset) > timedelta(hours=14) or not 2000 <= moment.year < 2200:
        raise ValueError("no time of today")
    return moment


Told = Annotated[Value | Any, Field(union_mode="left_to_right")]
# At most 32 characters today, 64 in the channel's own schema for refunds; a control character would be an attack.
Identifier = Annotated[str, StringConstraints(strict=True, pattern=r"^[^\x00-\x1f]{1,64}$")]
Word = Annotated[str, StringConstraints(strict=True, pattern=r"^[0-9A-Za-z_]{1,32}$")]
Moment = Annotated[datetime, PlainValidator(_moment)]


class _Said(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow")


class Payer(_Said):
    openid: Told[str] = None
    sp_openid: Told[str] = None
    sub_openid: Told[str] = None


class Scene(_Said):
    device_id: Told[str] = None


class Goods(_Said):
    goods_id: Told[str] = None
    quantity: Told[int] = None
    unit_price: Told[int] = None
    discount_amount: Told[int] = None
    goods_remark: Told[str] = None


class Promotion(_Said):
    coupon_id: Told[str] = None
    name: Told[str] = None
    scope: Told[str] = None  # GLOBAL SINGLE
    type: Told[str] = None  # CASH NOCASH
    amount: Told[int] = None
    stock_id: Told[str] = None
    wechatpay_contribute: Told[int] = None
    merchant_contribute: Told[int] = None
    other_contribute: Told[int] = None
    currency: Told[str] = None
    goods_detail: Told[list[Goods]] = None


class Amount(_Said):
    total: Fen
    payer_total: Fen | None = None  # left out where no coupon was involved; 0 is an amount
    currency: Word = "CNY"
    payer_currency: Told[str] = None


class _Trade(_Said):
    out_trade_no: Identifier
    transaction_id: Identifier | None = None  # there once it was paid
    trade_type: Told[str] = None  # JSAPI NATIVE APP MICROPAY MWEB FACEPAY
    trade_state: Word  # SUCCESS REFUND NOTPAY CLOSED REVOKED USERPAYING PAYERROR ACCEPT
    bank_type: Told[str] = None
    attach: Told[str] = None
    success_time: Moment | None = None


class Transaction(_Trade):
    """An ordinary payment; a service provider's names sp_ and sub_ in place of mchid and appid."""

    appid: Identifier | None = None
    mchid: Identifier | None = None
    sp_appid: Identifier | None = None
    sp_mchid: Identifier | None = None
    sub_appid: Told[str] = None
    sub_mchid: Told[str] = None
    trade_state_desc: Told[str] = None
    payer: Told[Payer] = None
    amount: Amount | None = None
    scene_info: Told[Scene] = None
    promotion_detail: Told[list[Promotion]] = None


class SubAmount(_Said):
    total_amount: Fen
    payer_amount: Fen | None = None
    currency: Word = "CNY"
    payer_currency: Told[str] = None


class SubOrder(_Trade):
    mchid: Identifier
    sub_mchid: Told[str] = None
    sub_appid: Told[str] = None
    sub_openid: Told[str] = None
    amount: SubAmount | None = None


class Combined(_Said):
    """Several orders paid at once: they succeed or fail together, but each is an order of its own."""

    combine_appid: Identifier
    combine_mchid: Identifier
    combine_out_trade_no: Identifier
    combine_payer_info: Told[Payer] = None
    scene_info: Told[Scene] = None
    sub_orders: Annotated[tuple[SubOrder, ...], Field(min_length=1)]


class RefundAmount(_Said):
    total: Fen | None = None
    refund: Fen | None = None
    payer_total: Told[int] = None
    payer_refund: Told[int] = None


class Refund(_Said):
    """Names no appid; a partner's names sp_mchid, one real notice named no merchant, and an old one no amount."""

    mchid: Identifier | None = None
    sp_mchid: Identifier | None = None
    sub_mchid: Told[str] = None
    transaction_id: Identifier
    out_trade_no: Identifier
    refund_id: Identifier | None = None
    out_refund_no: Identifier
    refund_status: Word  # SUCCESS CLOSED PROCESSING ABNORMAL
    success_time: Moment | None = None
    user_received_account: Told[str] = None
    amount: RefundAmount | None = None


class Receiver(_Said):
    type: Told[str] = None
    account: Told[str] = None
    amount: Told[int] = None
    description: Told[str] = None


class ProfitSharing(_Said):
    """A share, or its return, told to the merchant who receives it."""

    mchid: Told[str] = None
    sp_mchid: Told[str] = None
    sub_mchid: Told[str] = None
    transaction_id: Identifier
    order_id: Told[str] = None
    out_order_no: Told[str] = None
    receiver: Told[Receiver] = None
    success_time: Told[Moment] = None


class Echo(_Said):
    """The channel's self-test. The second field's name is spelt otherwise in the request."""

    echo_message: Told[str] = None
    encrypt_echo_message: Told[str] = None


Content = Transaction | Combined | Refund | ProfitSharing | Echo

# The first whose fields are all there; never the envelope's event_type, which is the same for most of them.
_SHAPES: tuple[tuple[frozenset[str], type[Content]], ...] = (
    (frozenset({"combine_out_trade_no", "sub_orders"}), Combined),
    (frozenset({"refund_status"}), Refund),
    (frozenset({"receiver", "order_id"}), ProfitSharing),
    (frozenset({"echo_message"}), Echo),
    (frozenset({"trade_state"}), Transaction),
)


def read(plain: Mapping[str, Any]) -> Content:
    """Raises ValueError, which pydantic's ValidationError is, for what is of no known shape."""
    for fields, shape in _SHAPES:
        if fields <= plain.keys():
            return shape.model_validate(plain)
    raise ValueError("unknown shape")
