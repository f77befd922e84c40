"""Orders and events as other services would send them, for tests of order-core."""

from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from order_core.money import Transaction
from order_core.orders import AskRefund, Close, ConfirmReceipt, Incoming, Resettle, Ship
from order_core.reserve import Reservation, reserve
from orderloop.events import (
    AnomalyRaised,
    CloseOutcome,
    CloseResult,
    Decision,
    Item,
    ParcelStatus,
    ParcelTracked,
    PaymentNotified,
    PickupDetected,
    Receiver,
    RefundNotified,
    SettlementResult,
    SettlementStatus,
    WaybillCreated,
)
from orderloop.events.event import Event
from orderloop.postgres import Connection

NOW = datetime.now(UTC).replace(microsecond=0)  # partitions are made around the present month
AMOUNT = 9900
ITEMS = (Item(sku="SOFA-3", name="Sofa", quantity=1),)
RECEIVER = Receiver(name="张三", phone="13800000000", region="江苏", address="南京路 1 号")
DECISION = Decision(warehouse="suzhou", express_code="zto")


async def reserved(conn: Connection, external_order_id: str = "1001", *, amount_fen: int = AMOUNT) -> str:
    """A pending order's number."""
    wanted = Reservation("douyin", external_order_id, amount_fen, "CNY", ITEMS, RECEIVER)
    order_no, _ = await reserve(conn, wanted, now=NOW)
    return order_no


def sent(event_id: str, body: Event, *, source: str = "/payment-callback") -> Incoming:
    return Incoming(body.order_no, event_id, body.TOPIC, source, NOW, body)  # type: ignore[arg-type]


def paid(order_no: str, transaction_id: str = "4200001", **changes: Any) -> Incoming:
    fields: dict[str, Any] = {
        "order_no": order_no,
        "channel": "wechat",
        "mchid": "1900000001",
        "transaction_id": transaction_id,
        "trade_state": "SUCCESS",
        "amount_fen": AMOUNT,
        "payer_total_fen": AMOUNT,
        "currency": "CNY",
        "paid_at": NOW,
        "source": "callback",
    }
    return sent(f"wechat:{transaction_id}:paid", PaymentNotified(**(fields | changes)))


def missing(order_no: str, transaction_id: str = "4200001", **changes: Any) -> Incoming:
    """The channel, asked, says that it was paid; what it says has every field that its notice would have."""
    notice = paid(order_no, transaction_id, **changes).body.encode()  # type: ignore[union-attr]
    evidence = {name: told for name, told in orjson.loads(notice).items() if name not in {"order_no", "source"}}
    body = AnomalyRaised(
        order_no=order_no,
        kind="callback_missing",
        evidence=evidence,
        money_fen=evidence["amount_fen"],
        raised_at=NOW,
    )
    return sent(f"{evidence['channel']}:{transaction_id}:callback_missing", body)


def labelled(order_no: str, waybill_no: str = "7312", *, parcel_no: int = 1, parcel_count: int = 1) -> Incoming:
    body = WaybillCreated(
        order_no=order_no,
        shipment_id=f"{order_no}_S1",
        express_code="zto",
        waybill_no=waybill_no,
        warehouse="suzhou",
        parcel_no=parcel_no,
        parcel_count=parcel_count,
        created_at=NOW,
    )
    return sent(f"{order_no}_S1:waybill:{waybill_no}", body, source="/logistics-poller")


def picked_up(order_no: str, waybill_no: str = "7312") -> Incoming:
    body = PickupDetected(order_no=order_no, express_code="zto", waybill_no=waybill_no, picked_up_at=NOW, source="poll")
    return sent(f"zto:{waybill_no}:picked_up", body, source="/logistics-poller")


def tracked(
    order_no: str, status: ParcelStatus = ParcelStatus.DELIVERED, waybill_no: str = "7312", *, hours: float = 30
) -> Incoming:
    at = NOW + timedelta(hours=hours)
    body = ParcelTracked(order_no=order_no, express_code="zto", waybill_no=waybill_no, status=status, at=at)
    return sent(f"zto:{waybill_no}:{status}:{hours}", body, source="/logistics-poller")


def settled(
    order_no: str,
    status: SettlementStatus = SettlementStatus.SUCCESS,
    *,
    attempt: int = 1,
    amount_fen: int = AMOUNT,
    instruction: int = 1,
) -> Incoming:
    instruction_id = f"{order_no}_P{instruction}"
    body = SettlementResult(
        order_no=order_no,
        instruction_id=instruction_id,
        attempt=attempt,
        status=status,
        bank_code="0000",
        amount_fen=amount_fen,
        arrived_at=NOW if status is SettlementStatus.SUCCESS else None,
    )
    return sent(f"{instruction_id}:{attempt}:{status}", body, source="/settlement")


def shipped(order_no: str) -> Incoming:
    body = Ship(f"{order_no}_S1", DECISION, ITEMS, RECEIVER)
    return Incoming(order_no, f"{order_no}_S1:accepted", "ship", "shop", NOW, body)


def confirmed(order_no: str) -> Incoming:
    return Incoming(order_no, f"{order_no}:receipt-confirmed", "confirm-receipt", "customer", NOW, ConfirmReceipt())


def resettled(order_no: str, *, attempt: int = 2) -> Incoming:
    return Incoming(order_no, f"{order_no}:resettle:{attempt}", "resettle", "ops:li", NOW, Resettle())


def refund_asked(
    order_no: str, amount_fen: int | None = None, *, transaction: Transaction | None = None, key: str = "1"
) -> Incoming:
    body = AskRefund("the customer sent it back", amount_fen, transaction)
    return Incoming(order_no, f"refund:{key}", "refund", "shop", NOW, body)


def refund_told(
    order_no: str,
    number: int = 1,
    status: str = "SUCCESS",
    *,
    amount_fen: int = AMOUNT,
    transaction_id: str = "4200001",
) -> Incoming:
    body = RefundNotified(
        order_no=order_no,
        channel="wechat",
        transaction_id=transaction_id,
        refund_id=f"50{order_no}{number}",
        out_refund_no=f"{order_no}_R{number}",
        refund_status=status,
        refund_fen=amount_fen,
        total_fen=AMOUNT,
        finished_at=NOW if status == "SUCCESS" else None,
    )
    fact = "refunded" if status == "SUCCESS" else status.lower()
    return sent(f"wechat:{body.refund_id}:{fact}", body)


def close_asked(order_no: str) -> Incoming:
    return Incoming(order_no, "close:1", "close", "shop", NOW, Close())


def close_told(order_no: str, result: CloseOutcome = CloseOutcome.CLOSED, *, n: int = 1) -> Incoming:
    body = CloseResult(order_no=order_no, result=result, channel="wechat")
    return sent(f"{order_no}:close:{n}:result", body)
