"""Lives of orders as other services would tell them, each with the end that it must come to.

Bodies are written out here once more, apart from the house's own classes: this is what arrives on the wire.
"""

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from orderloop import topics
from orderloop.envelope import Envelope

AMOUNT = 9900
NO = "{order_no}"  # stands in ids and bodies for the number that the order will be given
_BEGAN = datetime(2026, 1, 5, 9, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Told:
    """One record about an order."""

    topic: str
    event_id: str
    body: Mapping[str, Any] | str  # text is sent as it is: nobody can read it
    source: str

    def record(self, order_no: str) -> tuple[bytes, list[tuple[str, bytes]]]:
        """Value and headers of the record about this order."""
        body = self.body if isinstance(self.body, str) else json.dumps(self.body)
        envelope = Envelope(self.event_id.replace(NO, order_no), self.source, self.topic, datetime.now(UTC), order_no)
        return body.replace(NO, order_no).encode(), envelope.headers()


@dataclass(frozen=True, slots=True)
class Life:
    """What is told early comes in any order; what is told late answers the command, after everything early."""

    name: str
    early: tuple[Told, ...] = ()
    command: str | None = None  # a route of POST /v1/orders/{order_no}
    late: tuple[Told, ...] = ()
    status: str | None = "paid"  # at the end; None: nobody ever reserved it
    anomalies: tuple[str, ...] = ()  # kinds
    waiting: int = 0  # events for ever without their predecessor
    poison: int = 0  # records that can only be dead-lettered

    @property
    def version(self) -> int:
        """Every event but those that stand aside is one more version."""
        if self.status is None:
            return 0
        told = len(self.early) + len(self.late) + (self.command is not None)
        return 1 + told - self.waiting - self.poison - len(self.aside)

    @property
    def aside(self) -> tuple[str, ...]:
        """The anomalies whose event changed nothing."""
        return tuple(kind for kind in self.anomalies if kind not in {"settlement_failed", "refund_failed"})


def _at(hours: float) -> str:
    return (_BEGAN + timedelta(hours=hours)).isoformat()


def _paid(transaction: str, amount_fen: int = AMOUNT, currency: str = "CNY") -> Told:
    body = {
        "order_no": NO,
        "channel": "wechat",
        "mchid": "1900000001",
        "transaction_id": transaction,
        "trade_state": "SUCCESS",
        "amount_fen": amount_fen,
        "payer_total_fen": amount_fen,
        "currency": currency,
        "paid_at": _at(0),
        "source": "callback",
    }
    return Told(topics.PAYMENT_NOTIFIED, f"wechat:{transaction}:paid", body, "/payment-callback")


def label(waybill: str, parcel: int = 1, count: int = 1, *, foreign: bool = False) -> Told:
    body = {
        "order_no": NO,
        "shipment_id": f"{NO}_S1",
        "express_code": "zto",
        "waybill_no": waybill,
        "warehouse": "suzhou",
        "parcel_no": parcel,
        "parcel_count": count,
        "created_at": _at(1),
    }
    source = "/wms-of-a-friend" if foreign else "/logistics-poller"
    return Told(topics.WAYBILL_CREATED, "1" if foreign else f"{NO}_S1:waybill:{waybill}", body, source)


def _picked_up(waybill: str) -> Told:
    body = {"order_no": NO, "express_code": "zto", "waybill_no": waybill, "picked_up_at": _at(4), "source": "poll"}
    return Told(topics.PICKUP_DETECTED, f"zto:{waybill}:picked_up", body, "/logistics-poller")


def _scan(waybill: str, status: str, hours: float) -> Told:
    body = {"order_no": NO, "express_code": "zto", "waybill_no": waybill, "status": status, "at": _at(hours)}
    return Told(topics.PARCEL_TRACKED, f"zto:{waybill}:{status}:{hours}", body, "/logistics-poller")


def _journey(waybill: str, parcel: int = 1, count: int = 1, *, arrives: bool = True) -> tuple[Told, ...]:
    way = (label(waybill, parcel, count), _picked_up(waybill), _scan(waybill, "in_transit", 12))
    return (*way, _scan(waybill, "delivered", 40)) if arrives else way


def _settled(status: str) -> Told:
    body = {
        "order_no": NO,
        "instruction_id": f"{NO}_P1",
        "attempt": 1,
        "status": status,
        "bank_code": "0000",
        "amount_fen": AMOUNT,
        "arrived_at": _at(60) if status == "SUCCESS" else None,
    }
    return Told(topics.SETTLEMENT_RESULT, f"{NO}_P1:1:{status}", body, "/settlement")


def _refunded(transaction: str, status: str) -> Told:
    body = {
        "order_no": NO,
        "channel": "wechat",
        "transaction_id": transaction,
        "refund_id": f"50{NO}1",
        "out_refund_no": f"{NO}_R1",
        "refund_status": status,
        "refund_fen": AMOUNT,
        "total_fen": AMOUNT,
        "finished_at": _at(50),
    }
    return Told(topics.REFUND_NOTIFIED, f"wechat:50{NO}1:{status.lower()}", body, "/payment-callback")


def _closed(result: str) -> Told:
    body = {"order_no": NO, "result": result, "channel": "wechat"}
    return Told(topics.CLOSE_RESULT, f"{NO}:close:1:result", body, "/payment-callback")


def _raised(kind: str) -> Told:
    body = {"order_no": NO, "kind": kind, "evidence": {"waybill_no": "1"}, "money_fen": 0, "raised_at": _at(30)}
    return Told(topics.ANOMALY_RAISED, f"{NO}:{kind}", body, "/logistics-poller")


def _completed(t: str) -> Life:
    late = (_settled("PROCESSING"), _settled("SUCCESS"))
    return Life("completed", (_paid(t), *_journey(t)), "confirm-receipt", late, "completed")


def _two_parcels(t: str) -> Life:
    parcels = (*_journey(f"{t}A", 1, 2), *_journey(f"{t}B", 2, 2))
    return Life("two parcels", (_paid(t), *parcels), status="delivered")


def _settlement_failed(t: str) -> Life:
    early, late = (_paid(t), *_journey(t)), (_settled("FAILED"),)
    return Life("settlement failed", early, "confirm-receipt", late, "pending_settlement", ("settlement_failed",))


def _refund(t: str, word: str) -> Life:
    ends = ("refunded", ()) if word == "SUCCESS" else ("paid", ("refund_failed",))
    return Life(f"refund {word.lower()}", (_paid(t),), "refund", (_refunded(t, word),), *ends)


def _unreadable(t: str) -> Life:
    paid = _paid(f"{t}X")
    wrong: tuple[Mapping[str, Any] | str, ...] = (
        '{"order_no": "',
        {"order_no": NO},
        {**dict(paid.body), "transaction_id": "a\0b"},  # type: ignore[arg-type]
    )
    poison = tuple(Told(paid.topic, f"{t}:poison:{n}", body, paid.source) for n, body in enumerate(wrong))
    return Life("unreadable", (_paid(t), *poison), poison=len(poison))


# What a run is made of, by how often it occurs among a hundred orders or so. `t` is unique to the order in its run.
KINDS: tuple[tuple[int, Callable[[str], Life]], ...] = (
    (24, _completed),
    (10, _two_parcels),
    (10, lambda t: Life("on its way", (_paid(t), *_journey(t, arrives=False)), status="shipped")),
    (8, lambda t: Life("paid", (_paid(t),))),
    (4, lambda _: Life("unpaid", status="pending")),
    (6, lambda _: Life("closed", (), "close", (_closed("closed"),), "closed")),
    (4, lambda t: Life("paid while it was closing", (), "close", (_paid(t), _closed("paid")), "paid")),
    (5, _settlement_failed),
    (5, lambda t: _refund(t, "SUCCESS")),
    (5, lambda t: _refund(t, "CLOSED")),
    (4, lambda t: Life("paid twice", (_paid(f"{t}A"), _paid(f"{t}B")), anomalies=("paid_twice",))),
    (3, lambda t: Life("underpaid", (_paid(t, 1),), status="pending", anomalies=("amount_mismatch",))),
    (2, lambda t: Life("dollars", (_paid(t, currency="USD"),), status="pending", anomalies=("currency_mismatch",))),
    (3, lambda t: Life("no label", (_paid(t), _picked_up(t), _scan(t, "delivered", 9)), waiting=2)),
    (2, lambda t: Life("shipped unpaid", (label(t), _picked_up(t)), status="pending", waiting=2)),
    (3, lambda t: Life("silent", (_paid(t), _raised("parcel_silent")), anomalies=("parcel_silent",))),
    (2, lambda t: Life("nobody's", (_paid(t),), status=None, anomalies=("unknown_order",))),
    (3, lambda t: Life("counts from one", (_paid(t), *_twice_one(t)), status="shipped", anomalies=("id_reused",))),
)


def _twice_one(t: str) -> tuple[Told, ...]:
    return label(f"{t}A", foreign=True), label(f"{t}B", foreign=True)


def lives(count: int, chance: random.Random) -> list[Life]:
    """Each kind once, then by their weights; one order of unreadable records, as a fuse would stop for more."""
    weights = [weight for weight, _ in KINDS]
    drawn = [kind for _, kind in KINDS] + [
        KINDS[n][1] for n in chance.choices(range(len(KINDS)), weights, k=max(0, count - len(KINDS) - 1))
    ]
    return [make(f"T{n:04d}") for n, make in enumerate([_unreadable, *drawn])]
