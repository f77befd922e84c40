"""What a WeChat Pay notice means for our orders. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import assert_never

from orderloop.events import PaymentNotified, RefundNotified
from orderloop.ids import is_order_no

from .channel import Fact, Notice, Question, Reason, Refused, Shape, paid, refunded
from .wechat_content import Combined, Content, Echo, ProfitSharing, Refund, SubOrder, Transaction

NAME = "wechat"

_FOREIGN = "out_trade_no is not one of ours"


@dataclass(frozen=True, slots=True)
class Merchant:
    mchid: str
    appids: frozenset[str]

    def check(self, mchid: str | None, appid: str | None) -> None:
        """Raises Refused unless it is this merchant who was paid, ValueError if nobody is named."""
        if mchid is None or appid is None:
            raise ValueError("names no merchant")
        if mchid != self.mchid:
            raise Refused(Reason.WRONG_MERCHANT, "mchid")
        if appid not in self.appids:
            raise Refused(Reason.WRONG_MERCHANT, "appid")


def meaning(content: Content, merchant: Merchant) -> Notice:
    """Raises Refused, and ValueError for what cannot be meant."""
    match content:
        case Transaction():
            merchant.check(content.mchid or content.sp_mchid, content.appid or content.sp_appid)
            return _payments(Shape.TRANSACTION, [(content, merchant.mchid)])
        case Combined():
            merchant.check(content.combine_mchid, content.combine_appid)
            return _payments(Shape.COMBINED, [(order, order.mchid) for order in content.sub_orders])
        case Refund():
            return _refund(content, merchant)
        case ProfitSharing():
            # Told to receivers of a split; what we ourselves split is asked for by settlement.
            return Notice(Shape.PROFIT_SHARING, (), (content.transaction_id,), remark="logged only")
        case Echo():
            return Notice(Shape.ECHO, (), (), remark="logged only")
        case _:
            assert_never(content)


def _payments(shape: Shape, orders: Sequence[tuple[Transaction | SubOrder, str]]) -> Notice:
    facts: list[Fact] = []
    remarks: list[str] = []
    for order, mchid in orders:
        if order.trade_state != "SUCCESS":
            remarks.append("trade_state is not SUCCESS")
        elif not is_order_no(order.out_trade_no):
            remarks.append(_FOREIGN)
        else:
            facts.append(_paid(order, mchid))
    return Notice(
        shape,
        order_nos=tuple(order.out_trade_no for order, _ in orders),
        transaction_ids=tuple(_there(order.transaction_id for order, _ in orders)),
        facts=tuple(facts),
        remark="; ".join(remarks),
    )


def _paid(order: Transaction | SubOrder, mchid: str) -> Fact:
    if order.amount is None or order.transaction_id is None or order.success_time is None:
        raise ValueError("paid, and does not say what, when or under which number")
    if isinstance(order, Transaction):
        total, payer_total = order.amount.total, order.amount.payer_total
    else:
        total, payer_total = order.amount.total_amount, order.amount.payer_amount
    event = PaymentNotified(
        order_no=order.out_trade_no,
        channel=NAME,
        mchid=mchid,
        transaction_id=order.transaction_id,
        trade_state=order.trade_state,
        amount_fen=total,
        payer_total_fen=total if payer_total is None else payer_total,
        currency=order.amount.currency,
        paid_at=order.success_time,
        source="callback",
    )
    return paid(event)


def _refund(said: Refund, merchant: Merchant) -> Notice:
    if (said.mchid or said.sp_mchid or merchant.mchid) != merchant.mchid:
        raise Refused(Reason.WRONG_MERCHANT, "mchid")
    order_nos, transaction_ids = (said.out_trade_no,), (said.transaction_id,)
    if not is_order_no(said.out_trade_no):
        return Notice(Shape.REFUND, order_nos, transaction_ids, remark=_FOREIGN)
    match said.refund_status:
        case "SUCCESS" | "ABNORMAL" | "CLOSED":
            pass
        case "PROCESSING":
            return Notice(Shape.REFUND, order_nos, transaction_ids, remark="not refunded yet")
        case _:
            raise ValueError("a refund_status of tomorrow")
    amount = said.amount
    if said.refund_id is None or amount is None or amount.refund is None or amount.total is None:
        # How it ended is told, what was refunded is not: the channel is asked.
        question = Question(NAME, said.out_trade_no, said.transaction_id, said.out_refund_no)
        return Notice(Shape.REFUND, order_nos, transaction_ids, questions=(question,))
    event = RefundNotified(
        order_no=said.out_trade_no,
        channel=NAME,
        transaction_id=said.transaction_id,
        refund_id=said.refund_id,
        out_refund_no=said.out_refund_no,
        refund_status=said.refund_status,
        refund_fen=amount.refund,
        total_fen=amount.total,
        finished_at=said.success_time,
    )
    return Notice(Shape.REFUND, order_nos, transaction_ids, (refunded(event),))


def _there(values: Iterable[str | None]) -> Iterable[str]:
    return (value for value in values if value is not None)
