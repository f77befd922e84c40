"""An order's story in sentences, for whoever has the customer on the telephone: what happened, and what is next."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal

from orderloop.money import yuan

from .states import Status

Language = Literal["zh", "en"]
Words = Mapping[Language, str]

STATUSES: Mapping[Status, Words] = {
    Status.PENDING: {"zh": "待支付", "en": "waiting for payment"},
    Status.PAID: {"zh": "已支付", "en": "paid"},
    Status.SHIPPING: {"zh": "发货中", "en": "being shipped"},
    Status.SHIPPED: {"zh": "已发货", "en": "shipped"},
    Status.DELIVERED: {"zh": "已签收", "en": "delivered"},
    Status.PENDING_SETTLEMENT: {"zh": "待分账结算", "en": "waiting for the settlement"},
    Status.COMPLETED: {"zh": "已完成", "en": "completed"},
    Status.CLOSED: {"zh": "已关闭", "en": "closed"},
    Status.REFUNDING: {"zh": "退款中", "en": "being refunded"},
    Status.REFUNDED: {"zh": "已退款", "en": "refunded"},
}

# What moves the order on from where it stands.
WAITS: Mapping[Status, Words] = {
    Status.PENDING: {"zh": "等待支付渠道的支付通知", "en": "the payment channel's notice"},
    Status.PAID: {"zh": "等待发货请求,或外部仓库的面单", "en": "a ship request, or an outside warehouse's label"},
    Status.SHIPPING: {"zh": "等待仓库打印面单", "en": "the warehouse's label"},
    Status.SHIPPED: {"zh": "等待全部包裹签收,或客户确认收货", "en": "every parcel's signature, or the customer's word"},
    Status.DELIVERED: {"zh": "等待客户确认收货,到期自动确认", "en": "the customer's word; without it, time will do"},
    Status.PENDING_SETTLEMENT: {"zh": "等待银行的分账结果", "en": "the bank's word on the settlement"},
    Status.COMPLETED: {"zh": "无需等待", "en": "nothing"},
    Status.CLOSED: {"zh": "无需等待", "en": "nothing"},
    Status.REFUNDING: {"zh": "等待支付渠道的退款结果", "en": "the channel's word on the refund"},
    Status.REFUNDED: {"zh": "无需等待", "en": "nothing"},
}

CAN: Mapping[Status, Words] = {
    Status.PENDING: {"zh": "关闭订单", "en": "close it"},
    Status.PAID: {"zh": "发货、退款", "en": "ship it, refund it"},
    Status.SHIPPING: {"zh": "退款", "en": "refund it"},
    Status.SHIPPED: {"zh": "确认收货、退款", "en": "confirm the receipt, refund it"},
    Status.DELIVERED: {"zh": "确认收货、退款", "en": "confirm the receipt, refund it"},
    Status.PENDING_SETTLEMENT: {
        "zh": "退款(待银行给出结果后发出)",
        "en": "refund it (it goes out after the bank's last word)",
    },
    Status.COMPLETED: {"zh": "退款", "en": "refund it"},
    Status.CLOSED: {"zh": "由处置台恢复或退回迟到的付款", "en": "revive it, or give a late payment back, at the desk"},
    Status.REFUNDING: {"zh": "无", "en": "nothing"},
    Status.REFUNDED: {"zh": "无", "en": "nothing"},
}

_TIMERS: Mapping[str, Words] = {
    "expire": {"zh": "未支付则开始关闭", "en": "if still unpaid, closing begins"},
    "ask_again": {"zh": "再次向支付渠道查询能否关闭", "en": "the channels are asked again whether it may close"},
    "confirm": {"zh": "自动确认收货", "en": "the receipt counts as confirmed"},
}

_WORDS: Mapping[str, Words] = {
    "order": {"zh": "订单", "en": "order"},
    "happened": {"zh": "经过", "en": "what happened"},
    "waits": {"zh": "正在等待", "en": "it waits for"},
    "since": {"zh": "起始于", "en": "since"},
    "can": {"zh": "可以做", "en": "what can be done"},
    "next": {"zh": "届时", "en": "by itself"},
    "desk": {"zh": "需要人工处理", "en": "at the desk"},
    "early": {"zh": "提前到达、等待前序事件", "en": "came early and is kept"},
    "trace": {"zh": "链路", "en": "trace"},
    "parcel": {"zh": "包裹", "en": "parcel"},
    "refund": {"zh": "退款", "en": "refund"},
    "gone": {"zh": "历史记录已按保留期限清除", "en": "its history was old and has been removed"},
}


def explain(story: Mapping[str, Any], *, now: datetime, language: Language) -> str:
    """`story` is what `timeline` returns. No personal data is in it, so none comes out."""
    return "\n".join(_lines(story, now, language)) + "\n"


def _lines(story: Mapping[str, Any], now: datetime, language: Language) -> Iterator[str]:
    order, changes = story["order"], story["changes"]
    status = Status(order["status"])
    # Scans and notes are versions too: it has stood here since it last moved.
    moved = (c["recorded_at"] for c in reversed(changes) if c["from"] != c["to"])
    since = _when(next(moved, order["completed_at"] or order["created_at"]), now)
    yield (
        f"{_say('order', language)} {order['order_no']}: {STATUSES[status][language]} ({status}), "
        f"{yuan(order['amount_fen'])} {order['currency']}"
    )
    yield f"{_say('waits', language)}: {WAITS[status][language]}; {_say('since', language)} {since}"
    yield f"{_say('can', language)}: {CAN[status][language]}"
    yield from _open_ends(story, now, language)
    yield f"{_say('happened', language)}:"
    yield from (_change(change, language) for change in changes)
    if not changes:
        yield f"  {_say('gone', language)}"


def _open_ends(story: Mapping[str, Any], now: datetime, language: Language) -> Iterator[str]:
    for timer in story["timers"]:
        yield f"{_say('next', language)} {_when(timer['due_at'], now)}: {_TIMERS[timer['kind']][language]}"
    for parcel in story["parcels"]:
        what = f"{_say('parcel', language)} {parcel['express_code']} {parcel['waybill_no']}"
        yield f"{what}: {parcel['status']}, {_when(parcel['at'], now)}"
    for refund in story["refunds"]:
        yield f"{_say('refund', language)} {refund.out_refund_no}: {yuan(refund.amount_fen)}, {refund.state}"
    for anomaly in story["anomalies"]:
        if anomaly["resolved_at"] is None:
            what = f"{_say('desk', language)}: #{anomaly['id']} {anomaly['kind']}"
            yield f"{what}, {yuan(anomaly['money_fen'])}, {_when(anomaly['raised_at'], now)}"
    early: Sequence[Mapping[str, Any]] = story["waiting"]
    for event in early:
        yield f"{_say('early', language)}: {event['type']} ({event['event_id']}), {_when(event['since'], now)}"


def _change(change: Mapping[str, Any], language: Language) -> str:
    to = STATUSES[Status(change["to"])][language]
    trace = f", {_say('trace', language)} {change['trace_id']}" if change["trace_id"] else ""
    where = to if change["from"] == change["to"] else f"→ {to}"
    what = f"{where}  {change['event']} ({change['actor']}{trace})"
    return f"  {change['version']:>3}  {_moment(change['recorded_at'])}  {what}"


def _say(word: str, language: Language) -> str:
    return _WORDS[word][language]


def _moment(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S%z}"


def _when(at: datetime, now: datetime) -> str:
    """The moment and how far it is, such as "2026-01-22 09:00:00+0000 (−3 h)"."""
    away = at - now
    sign, away = ("−", -away) if away < timedelta(0) else ("+", away)
    for unit, length in (("d", timedelta(days=1)), ("h", timedelta(hours=1)), ("min", timedelta(minutes=1))):
        if away >= length:
            return f"{_moment(at)} ({sign}{away // length} {unit})"
    return f"{_moment(at)} ({sign}{int(away.total_seconds())} s)"
