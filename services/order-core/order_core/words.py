"""What an order's story is told in: Chinese for customer service, English for everybody else. The code's own words for
events, kinds and states are English already.
"""

from collections.abc import Mapping
from typing import Literal

from orderloop.events import ParcelStatus

from .money import RefundState
from .orders import InstructionState
from .repairs import Repair
from .states import Event, Status

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

NOTHING: Words = {"zh": "无需等待", "en": "nothing"}

# What moves the order on from where it stands.
WAITS: Mapping[Status, Words] = {
    Status.PENDING: {"zh": "等待支付渠道的支付通知", "en": "the payment channel's notice"},
    Status.PAID: {"zh": "等待发货请求,或外部仓库的面单", "en": "a ship request, or an outside warehouse's label"},
    Status.SHIPPING: {"zh": "等待仓库打印面单", "en": "the warehouse's label"},
    Status.SHIPPED: {"zh": "等待全部包裹签收,或客户确认收货", "en": "every parcel's signature, or the customer's word"},
    Status.DELIVERED: {"zh": "等待客户确认收货,到期自动确认", "en": "the customer's word; without it, time will do"},
    Status.PENDING_SETTLEMENT: {"zh": "等待银行的分账结果", "en": "the bank's word on the settlement"},
    Status.COMPLETED: NOTHING,
    Status.CLOSED: NOTHING,
    Status.REFUNDING: {"zh": "等待支付渠道的退款结果", "en": "the channel's word on the refund"},
    Status.REFUNDED: NOTHING,
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

TIMERS: Mapping[str, Words] = {
    "expire": {"zh": "未支付则开始关闭", "en": "if still unpaid, closing begins"},
    "ask_again": {"zh": "再次向支付渠道查询能否关闭", "en": "the channels are asked again whether it may close"},
    "confirm": {"zh": "自动确认收货", "en": "the receipt counts as confirmed"},
}

WORDS: Mapping[str, Words] = {
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
    "payment": {"zh": "支付", "en": "payment"},
    "applied": {"zh": "已入账", "en": "applied"},
    "beside": {"zh": "未入账", "en": "not applied"},
    "settlement": {"zh": "分账指令", "en": "settlement"},
    "risk": {"zh": "待处理", "en": "at risk"},
    "gone": {"zh": "历史记录已按保留期限清除", "en": "its history was old and has been removed"},
}

# Where an order would wait for ever: what stands at the desk has to be done first. By status as well, because the order
# may have gone on in spite of an anomaly that is still open. What is not here leaves what the status waits for.
WAITS_FOR_A_PERSON: Mapping[tuple[Status, str], Words] = {
    (Status.PENDING, "callback_missing"): {
        "zh": "渠道称已支付却无通知,待人工处理",
        "en": "a person: paid, by the channel, unannounced",
    },
    (Status.PENDING, "amount_mismatch"): {
        "zh": "支付金额与订单不符,待人工处理",
        "en": "a person: paid, but not the order's amount",
    },
    (Status.PENDING, "currency_mismatch"): {
        "zh": "支付币种与订单不符,待人工处理",
        "en": "a person: paid, but not in the order's currency",
    },
    (Status.SHIPPING, "shipment_refused"): {
        "zh": "仓库已拒绝发货,等待人工处理",
        "en": "a person: the warehouse has refused the shipment",
    },
    (Status.SHIPPED, "delivery_incomplete"): {
        "zh": "并非所有包裹都已送达,等待人工处理",
        "en": "a person: not every parcel has arrived",
    },
    (Status.PENDING_SETTLEMENT, "settlement_failed"): {
        "zh": "银行已拒绝分账,等待人工处理",
        "en": "a person: the bank has refused the settlement",
    },
    (Status.PENDING_SETTLEMENT, "settlement_differs"): {
        "zh": "银行结果的金额与分账指令不符,等待人工处理",
        "en": "a person: the bank speaks of another amount",
    },
    (Status.PENDING_SETTLEMENT, "bank_forgot_instruction"): {
        "zh": "银行查无此前受理的指令,等待人工联系银行",
        "en": "a person: the bank no longer knows the instruction that it had taken",
    },
    (Status.PENDING_SETTLEMENT, "settlement_never_arrived"): {
        "zh": "银行从未收到指令且已过重发期限,等待人工处理",
        "en": "a person: the bank has never seen the instruction, and it is too old to be sent again",
    },
    (Status.CLOSED, "paid_after_close"): {
        "zh": "关闭后又收到付款,等待人工恢复订单或退款",
        "en": "a person: paid after it was closed, to be revived or given back",
    },
    (Status.REFUNDING, "refund_refused"): {
        "zh": "渠道拒绝退款,等待人工处理(系统仍会重试)",
        "en": "a person: the channel refuses the refund, which is asked for again",
    },
}
# Where the order itself waits for nothing, and something is open all the same.
WAITS_AT_THE_DESK: Words = {
    "zh": "无需等待;处置台上的异常待人工处理",
    "en": "a person, for what is at the desk; nothing else",
}

EVENTS: Mapping[Event, str] = {
    Event.PAYMENT_SUCCEEDED: "支付成功",
    Event.CLOSE_REQUESTED: "请求关闭",
    Event.CLOSE_CONFIRMED: "渠道确认关闭",
    Event.CLOSE_FOUND_PAID: "关闭时渠道称已支付",
    Event.CLOSE_UNANSWERED: "关闭结果未知",
    Event.REVIVED: "人工恢复",
    Event.SHIPMENT_ACCEPTED: "受理发货",
    Event.WAYBILL_CREATED: "已打面单",
    Event.PARCEL_TRACKED: "物流更新",
    Event.ALL_PARCELS_DELIVERED: "全部包裹签收",
    Event.RECEIPT_CONFIRMED: "确认收货",
    Event.SETTLEMENT_SUCCEEDED: "分账成功",
    Event.SETTLEMENT_PROCESSING: "分账处理中",
    Event.SETTLEMENT_FAILED: "分账被拒",
    Event.SETTLEMENT_RETRIED: "重新分账",
    Event.REFUND_REQUESTED: "请求全额退款",
    Event.REFUND_HELD: "退款等待银行结果",
    Event.REFUND_SUCCEEDED: "全额退款成功",
    Event.REFUND_FAILED: "全额退款失败",
    Event.PART_REFUND_REQUESTED: "请求部分退款",
    Event.PART_REFUND_SUCCEEDED: "部分退款成功",
    Event.PART_REFUND_FAILED: "部分退款失败",
    Event.REFUND_GIVEN_UP: "放弃退款",
    Event.TRACKING_REQUESTED: "请求重新跟踪包裹",
    Event.ANOMALY_DISMISSED: "人工关闭异常",
}

# By kind, as in docs/anomalies.md.
ANOMALIES: Mapping[str, str] = {
    "unknown_order": "订单不存在",
    "amount_mismatch": "支付金额不符",
    "currency_mismatch": "支付币种不符",
    "paid_after_close": "关闭后支付",
    "paid_twice": "重复支付",
    "transaction_reused": "支付流水被重复使用",
    "refund_failed": "退款失败",
    "refund_differs": "退款通知与请求不符",
    "refund_contradiction": "渠道前后说法矛盾",
    "refund_not_requested": "非本系统发起的退款",
    "illegal_transition": "当前状态下不可能发生的事件",
    "predecessor_missing": "前序事件缺失",
    "close_not_requested": "未请求的关闭结果",
    "delivery_incomplete": "包裹未全部送达",
    "id_reused": "事件编号被重复使用",
    "settlement_not_requested": "未请求的分账结果",
    "settlement_differs": "分账金额不符",
    "settled_and_refunded": "既分账又退款",
    "settlement_failed": "分账被拒",
    "callback_missing": "支付通知缺失",
    "refund_refused": "渠道拒绝退款",
    "refund_unanswered": "退款结果未知",
    "shipment_refused": "仓库拒绝发货",
    "shipment_unanswered": "仓库未答复",
    "second_shipment": "重复发货请求",
    "parcel_silent": "已打单无人揽收",
    "parcel_exhausted": "轮询到期",
    "parcel_returned": "包裹退回",
    "bank_contradiction": "银行前后说法矛盾",
    "bank_forgot_instruction": "银行查无此前受理的指令",
    "settlement_never_arrived": "银行从未收到指令",
}

REPAIRS: Mapping[Repair, str] = {
    Repair.REPLAY: "重新处理",
    Repair.LINK_TO_ORDER: "改挂到其他订单",
    Repair.REVIVE: "恢复订单",
    Repair.APPLY_EVIDENCE: "按渠道查询结果入账",
    Repair.REQUEST_REFUND: "退款",
    Repair.GIVE_UP_REFUND: "放弃退款",
    Repair.RESETTLE: "重新分账",
    Repair.RETRACK: "重新跟踪包裹",
    Repair.DISMISS: "说明原因后关闭",
}

PARCELS: Mapping[ParcelStatus, str] = {
    ParcelStatus.LABEL_PRINTED: "已打单未揽收",
    ParcelStatus.PICKED_UP: "已揽收",
    ParcelStatus.IN_TRANSIT: "运输中",
    ParcelStatus.DELIVERING: "派送中",
    ParcelStatus.DELIVERED: "已签收",
    ParcelStatus.EXCEPTION: "异常",
    ParcelStatus.RETURNED: "退回",
    ParcelStatus.SILENT: "静默超时",
    ParcelStatus.EXHAUSTED: "轮询到期",
}

REFUNDS: Mapping[RefundState, str] = {
    RefundState.HELD: "等待银行结果",
    RefundState.ASKED: "已请求渠道",
    RefundState.SUCCESS: "已退回",
    RefundState.ABNORMAL: "渠道无法退回",
    RefundState.CLOSED: "已结束未退",
}

SETTLEMENTS: Mapping[InstructionState, str] = {
    InstructionState.SENT: "已发起",
    InstructionState.PROCESSING: "处理中",
    InstructionState.SUCCESS: "成功",
    InstructionState.FAILED: "被拒",
}


def named(word: str, language: Language) -> str:
    """An event, a kind, a repair or a state, as the code calls it, for a reader."""
    return _CHINESE.get(word, word) if language == "zh" else word.replace("_", " ")


_CHINESE: Mapping[str, str] = {"reserved": "占号下单", **EVENTS, **ANOMALIES, **REPAIRS}
