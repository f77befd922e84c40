"""Commands over HTTP that change an order: the same write path as every event, and an answer that is kept.

The answer to a key is written in the transaction of the effect, so that a repeat gets it whatever crashed in between.
"""

import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import asyncpg
import orjson

from orderloop.postgres import Connection
from orderloop.problem import Problem
from orderloop.tracing import current_traceparent

from . import answers, history
from .apply import CommandRefused, apply
from .orders import Change, Command, Incoming, Order, Parked
from .store import TransactionTaken
from .timers import PATIENCE, Patience

# What stands in the way of a command, and what to do. Not among them: "status", which the status itself explains.
REASONS: Mapping[str, str] = {
    "amount-mismatch": "The payment has another amount than the order: refund it, or link it to the order it fits.",
    "close-not-requested": "Nobody has asked the channels to close this order, or they call it paid.",
    "closing-already": "The channels have been asked to close this order already: wait for their answer.",
    "currency-mismatch": "The payment has another currency than the order: refund it, or link it elsewhere.",
    "illegal-transition": "This cannot happen to the order as it stands: read its timeline; if it is over, dismiss.",
    "no-such-parcel": "The order has no such parcel: its label has not come, or names another order.",
    "no-such-payment": "The order has no such payment: send channel and transaction_id as its timeline shows them.",
    "not-closing": "Nobody waits for the channels to close this order any more: ask for it with POST …/close.",
    "nothing-left-to-refund": "Less than that is left: ask for less; the rest has gone back, or is on its way back.",
    "nothing-to-settle": "Nothing is left to settle, or the bank has not refused what it has: read the timeline.",
    "paid-after-close": "The order is closed: revive it with the payment, refund the payment, or link it elsewhere.",
    "paid-twice": "The order is paid already: refund this payment, or link it to the order that it was meant for.",
    "parcel-has-ended": "The parcel is signed for, or has been brought back: nothing more is to be asked.",
    "payment-refunded": "The payment has gone back, or is on its way back: nothing is left for the order to live on.",
    "predecessor-missing": "What must come before it has still not come: apply that first.",
    "refund-contradiction": "The channel has said its last word on this refund before: compare with its own console.",
    "refund-differs": "The channel speaks of another amount or payment than was asked for: see its own console.",
    "refund-not-requested": "This order has not asked for that refund: find who refunded at the channel, then dismiss.",
    "refund-not-stuck": "The refund is on its way, or has come through: give up only what the channel cannot deliver.",
    "settled-and-refunded": "The money has gone both ways: get one of the two back, then dismiss.",
    "settlement-differs": "The bank speaks of another amount than this order has asked it to settle.",
    "settlement-not-requested": "This order has not asked for that settlement: let its receipt be confirmed first.",
    "settlement-under-way": "The bank has another settlement of this order: ask again after its last word.",
    "transaction-reused": "Another order lives on that transaction, or it was asked to go back: look at that order.",
}


@dataclass(frozen=True, slots=True)
class Request:
    """Who asks, and how a repeat of the same wish is recognised."""

    caller: str
    route: str
    key: str  # Idempotency-Key
    order_no: str
    body: bytes

    @property
    def body_hash(self) -> bytes:
        return hashlib.sha256(self.order_no.encode() + b"\n" + self.body).digest()

    @property
    def event_id(self) -> str:
        """The command's own id in the inbox, where no other names the fact."""
        return f"{self.route}:{hashlib.sha256(f'{self.caller} {self.key}'.encode()).hexdigest()[:24]}"


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes  # JSON


Answers = Callable[[Order], Mapping[str, Any]]  # the order after the change -> what the caller is told


async def execute(
    conn: Connection,
    request: Request,
    *,
    body: Command,
    told: Answers,
    now: datetime,
    event_id: str | None = None,
    patience: Patience = PATIENCE,
) -> Answer:
    """Change the order once and remember the answer; a repeat of the request gets the remembered one.

    Raises Problem as `once` does, and 404 for an unknown order, 409 when the order forbids it (nothing is stored).
    """

    async def act() -> Mapping[str, Any]:
        command = Incoming(
            request.order_no,
            event_id or request.event_id,
            request.route,
            request.caller,
            now,
            body,
            current_traceparent(),
        )
        return told((await changed(conn, command, now=now, patience=patience)).after)

    return await once(conn, request, act)


async def once(conn: Connection, request: Request, act: Callable[[], Awaitable[Mapping[str, Any]]]) -> Answer:
    """Run `act` in a transaction with the memory of its answer.

    Raises Problem: 409 when the same request is still running, 422 when the key was used with another body.
    """
    try:
        return await _once(conn, request, act)
    except TransactionTaken:
        return await _once(conn, request, act)  # decided anew, it sees the order that was faster


async def _once(conn: Connection, request: Request, act: Callable[[], Awaitable[Mapping[str, Any]]]) -> Answer:
    mine = {"caller": request.caller, "route": request.route, "key": request.key}
    try:
        async with conn.transaction():
            if not await answers.claim_key(conn, **mine, body_hash=request.body_hash):
                return await _remembered(conn, request)
            accepted = answer(202, await act())
            await answers.answer_key(conn, **mine, status=accepted.status, answer=accepted.body)
            return accepted
    except asyncpg.LockNotAvailableError:
        raise Problem(409, "still-running", "This order is being changed at this moment. Try again shortly.") from None


async def changed(conn: Connection, incoming: Incoming, *, now: datetime, patience: Patience) -> Change:
    """The change that a command, or an event that a person applies, makes. Raises Problem when it makes none."""
    outcome = await decided(conn, incoming, now=now, patience=patience)
    if isinstance(outcome, Parked):
        raise await _forbidden(conn, incoming, outcome.kind.replace("_", "-"))
    return outcome


async def decided(conn: Connection, incoming: Incoming, *, now: datetime, patience: Patience) -> Change | Parked:
    """What becomes of it, where that it stands at the desk will do, too. Raises Problem when nothing does."""
    try:
        outcomes = await apply(conn, [incoming], now=now, patience=patience)
    except CommandRefused as refused:
        raise await _forbidden(conn, incoming, refused.reason) from None
    for change in outcomes.changes:
        if change.cause.key == incoming.key:
            return change
    if incoming.key in outcomes.parked:
        return outcomes.parked[incoming.key]
    raise await _forbidden(conn, incoming, "predecessor-missing" if incoming.key in outcomes.waiting else "status")


async def _forbidden(conn: Connection, incoming: Incoming, reason: str) -> Problem:
    row = await history.order_by_number(conn, incoming.order_no)
    if row is None:
        return Problem(404, "unknown-order", "No order has this number.")
    return Problem(
        409,
        "order-status-forbids",
        REASONS.get(reason, f"The order is {row['status']}; {incoming.type} is not possible, or has happened already."),
        order_no=incoming.order_no,
        order_status=row["status"],
        reason=reason,
    )


def answer(status: int, told: Mapping[str, Any]) -> Answer:
    return Answer(status, orjson.dumps(dict(told)))


async def _remembered(conn: Connection, request: Request) -> Answer:
    row = await answers.answered(conn, caller=request.caller, route=request.route, key=request.key)
    if row is None:
        raise Problem(409, "still-running", "The first request with this Idempotency-Key is still running.")
    if row["body_hash"] != request.body_hash:
        raise Problem(422, "idempotency-key-reused", "This Idempotency-Key was used with another request.")
    return Answer(row["status"], row["answer"])
