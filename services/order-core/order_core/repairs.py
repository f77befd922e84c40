"""What a person may do about an anomaly, and the event or command that it comes to."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, cast

import orjson
from msgspec.structs import replace

from orderloop.errors import MalformedEvent
from orderloop.events import BY_TOPIC, AnomalyRaised, PaymentNotified

from .orders import AskRefund, Body, Dismiss, GiveUpRefund, Incoming, Resettle, Retrack, Revive


class Repair(StrEnum):
    REPLAY = "replay"  # decide the event anew, as if it came now
    LINK_TO_ORDER = "link_to_order"  # the payment is another order's
    REVIVE = "revive"  # the late payment counts after all
    APPLY_EVIDENCE = "apply_evidence"  # what the channel said when asked counts as its notice
    REQUEST_REFUND = "request_refund"
    GIVE_UP_REFUND = "give_up_refund"  # what the channel cannot deliver is the order's money again
    RESETTLE = "resettle"
    RETRACK = "retrack"  # the courier is asked for the parcel anew
    DISMISS = "dismiss"  # with a reason


_PAYMENT = (Repair.REPLAY, Repair.LINK_TO_ORDER)

_EVIDENCE = Repair.APPLY_EVIDENCE.replace("_", "-")  # the type under which a person applies it

# By kind of anomaly. What is not here can only be dismissed: it is mended outside, and says so by itself.
REPAIRS: Mapping[str, tuple[Repair, ...]] = {
    "unknown_order": _PAYMENT,
    "amount_mismatch": (*_PAYMENT, Repair.REQUEST_REFUND),
    "currency_mismatch": (*_PAYMENT, Repair.REQUEST_REFUND),
    "transaction_reused": (Repair.REPLAY,),
    "paid_twice": (Repair.LINK_TO_ORDER, Repair.REQUEST_REFUND),
    "paid_after_close": (Repair.REVIVE, Repair.LINK_TO_ORDER, Repair.REQUEST_REFUND),
    "illegal_transition": (Repair.REPLAY,),
    "predecessor_missing": (Repair.REPLAY,),
    "refund_not_requested": (Repair.REPLAY,),
    "refund_differs": (Repair.REPLAY,),
    "close_not_requested": (Repair.REPLAY,),
    "settlement_not_requested": (Repair.REPLAY,),
    "refund_failed": (Repair.REQUEST_REFUND, Repair.GIVE_UP_REFUND),
    "delivery_incomplete": (Repair.REQUEST_REFUND,),
    "parcel_returned": (Repair.REQUEST_REFUND,),
    "parcel_silent": (Repair.RETRACK,),
    "parcel_exhausted": (Repair.RETRACK, Repair.REQUEST_REFUND),
    "settlement_failed": (Repair.RESETTLE, Repair.REQUEST_REFUND),
    "settled_and_refunded": (Repair.REPLAY,),
    "callback_missing": (Repair.APPLY_EVIDENCE,),
}


@dataclass(frozen=True, slots=True)
class Anomaly:
    id: int
    order_no: str
    event_id: str
    kind: str
    type: str
    actor: str
    occurred_at: datetime
    traceparent: str | None
    evidence: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Wish:
    """What a person wants done about an anomaly."""

    repair: Repair
    reason: str
    order_no: str | None = None  # for link_to_order
    amount_fen: int | None = None  # for request_refund; None: all that is left, or what failed
    version: int | None = None  # of the order, as the person saw it


class NotPossible(Exception):
    """The wish does not fit the anomaly. Nothing has changed."""


def allowed(kind: str, event_type: str) -> tuple[Repair, ...]:
    """What may be tried; whether the order lets it happen is decided when it is tried."""
    repairs = REPAIRS.get(kind, ())
    if event_type not in {PaymentNotified.TOPIC, _EVIDENCE}:
        repairs = tuple(r for r in repairs if r not in {Repair.LINK_TO_ORDER, Repair.REVIVE})
    if event_type not in BY_TOPIC or event_type == AnomalyRaised.TOPIC:  # what another service saw is no event
        repairs = tuple(r for r in repairs if r is not Repair.REPLAY)
    return (*repairs, Repair.DISMISS)


def incoming(anomaly: Anomaly, wish: Wish, *, by: str, key: str, now: datetime, traceparent: str | None) -> Incoming:
    """The wish as something for the write path. `key` names it where the fact has no name of its own.

    Raises NotPossible.
    """
    if wish.repair not in allowed(anomaly.kind, anomaly.type):
        raise NotPossible(f"an anomaly {anomaly.kind} cannot be mended by {wish.repair}")
    command = Incoming(anomaly.order_no, key, wish.repair.replace("_", "-"), by, now, Resettle(), traceparent)
    match wish.repair:
        case Repair.REPLAY:
            body = cast("Body", BY_TOPIC[anomaly.type].decode(orjson.dumps(anomaly.evidence)))
            return replace(
                command,
                event_id=anomaly.event_id.removesuffix(f"#{anomaly.kind}"),  # which a change's own anomaly has
                type=anomaly.type,
                body=body,
                occurred_at=anomaly.occurred_at,
            )
        case Repair.REVIVE:
            return replace(command, event_id=anomaly.event_id, body=Revive(_payment(anomaly)))
        case Repair.LINK_TO_ORDER:
            if wish.order_no in {None, anomaly.order_no}:
                raise NotPossible("say which other order the payment belongs to (order_no)")
            body = replace(_payment(anomaly), order_no=wish.order_no, source="repair")
            return replace(command, order_no=body.order_no, event_id=anomaly.event_id, body=body)
        case Repair.APPLY_EVIDENCE:
            body = _payment(anomaly)
            return replace(command, event_id=f"{body.channel}:{body.transaction_id}:paid", body=body)
        case Repair.REQUEST_REFUND:
            return replace(command, body=_refund(anomaly, wish))
        case Repair.GIVE_UP_REFUND:
            return replace(command, body=GiveUpRefund(str(anomaly.evidence.get("out_refund_no")), wish.reason))
        case Repair.RESETTLE:
            return command
        case Repair.RETRACK:
            return replace(command, body=_parcel(anomaly))
        case Repair.DISMISS:
            return replace(command, event_id=f"dismissed:{anomaly.id}", body=Dismiss(anomaly.kind, wish.reason))


def _payment(anomaly: Anomaly) -> PaymentNotified:
    """The payment that the anomaly is about, whether it was a notice or the channel's answer to a question."""
    told = {**anomaly.evidence, "order_no": anomaly.order_no, "source": "repair"}
    try:
        return PaymentNotified.decode(orjson.dumps(told))
    except MalformedEvent:
        raise NotPossible("the evidence does not say enough about the payment") from None


def _parcel(anomaly: Anomaly) -> Retrack:
    express_code, waybill_no = anomaly.evidence.get("express_code"), anomaly.evidence.get("waybill_no")
    if not express_code or not waybill_no:
        raise NotPossible("the evidence does not name the parcel")
    return Retrack(str(express_code), str(waybill_no))


def _refund(anomaly: Anomaly, wish: Wish) -> AskRefund:
    channel, transaction_id = anomaly.evidence.get("channel"), anomaly.evidence.get("transaction_id")
    transaction = (channel, transaction_id) if channel and transaction_id else None
    failed = anomaly.evidence.get("refund_fen") if anomaly.kind == "refund_failed" else None
    if not (
        all(isinstance(word, str) and "\0" not in word for word in transaction or ()) and isinstance(failed, int | None)
    ):
        raise NotPossible("the evidence does not say which payment it is about")  # as anybody outside may have put it
    return AskRefund(wish.reason, wish.amount_fen or failed, transaction)
