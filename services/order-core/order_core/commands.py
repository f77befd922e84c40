"""Commands over HTTP that change an order: the same write path as every event, and an answer that is kept.

The answer to a key is written in the transaction of the effect, so that a repeat gets it whatever crashed in between.
"""

import hashlib
from collections.abc import Callable, Mapping
from contextlib import suppress
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
from .orders import Command, Incoming, Order


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


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes  # JSON


Answers = Callable[[Order], Mapping[str, Any]]  # the order after the change -> what the caller is told


async def execute(
    conn: Connection, request: Request, *, event_id: str, body: Command, answer: Answers, now: datetime
) -> Answer:
    """Do it once and remember the answer; a repeat of the request gets the remembered one.

    Raises Problem: 404 unknown order, 409 when the order's status forbids it (nothing is stored), or when the same
    request is still running, 422 when the key was used with another body.
    """
    mine = {"caller": request.caller, "route": request.route, "key": request.key}
    try:
        async with conn.transaction():
            if not await answers.claim_key(conn, **mine, body_hash=request.body_hash):
                return await _remembered(conn, request)
            incoming = Incoming(
                request.order_no, event_id, request.route, request.caller, now, body, current_traceparent()
            )
            order = await _changed(conn, incoming, now=now)
            told = orjson.dumps(dict(answer(order)))
            await answers.answer_key(conn, **mine, status=202, answer=told)
            return Answer(202, told)
    except asyncpg.LockNotAvailableError:
        raise Problem(409, "still-running", "This order is being changed at this moment. Try again shortly.") from None


async def _changed(conn: Connection, incoming: Incoming, *, now: datetime) -> Order:
    with suppress(CommandRefused):
        outcomes = await apply(conn, [incoming], now=now)
        if outcomes.changes:
            return outcomes.changes[0].after
    row = await history.order_by_number(conn, incoming.order_no)
    if row is None:
        raise Problem(404, "unknown-order", "No order has this number.")
    raise Problem(
        409,
        "order-status-forbids",
        f"The order is {row['status']}; {incoming.type} is not possible, or has happened already.",
        order_no=incoming.order_no,
        order_status=row["status"],
    )


async def _remembered(conn: Connection, request: Request) -> Answer:
    row = await answers.answered(conn, caller=request.caller, route=request.route, key=request.key)
    if row is None:
        raise Problem(409, "still-running", "The first request with this Idempotency-Key is still running.")
    if row["body_hash"] != request.body_hash:
        raise Problem(422, "idempotency-key-reused", "This Idempotency-Key was used with another request.")
    return Answer(row["status"], row["answer"])
