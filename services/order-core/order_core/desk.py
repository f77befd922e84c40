"""The desk (CORE-3): a person looks at an anomaly, sees what a repair would do, and does it, by name."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import asyncpg
import orjson

from orderloop.postgres import Connection
from orderloop.problem import Problem
from orderloop.tracing import current_traceparent, trace_id_of

from . import anomalies, history, store
from .commands import Answer, Request, changed, decided, once
from .orders import Change, Parked
from .repairs import Anomaly, NotPossible, Repair, Wish, allowed, incoming
from .timers import Patience


@dataclass(frozen=True, slots=True)
class Hand:
    """Who acts, under which name for the act, and when."""

    by: str
    key: str
    now: datetime
    patience: Patience


class _OnlyPreview(Exception):
    """Takes back what a preview has tried."""


async def show(conn: Connection, number: int) -> Mapping[str, Any]:
    """One anomaly with its evidence and what may be done about it. Raises Problem 404."""
    row = await _row(conn, number)
    order = await history.order_by_number(conn, row["order_no"])
    return {
        **listed(row),
        "occurred_at": row["occurred_at"],
        "trace_id": trace_id_of(row["traceparent"]),
        "evidence": orjson.loads(row["evidence"]),
        "repairs": [] if row["resolved_at"] else list(allowed(row["kind"], row["type"])),
        "order": {"status": order["status"], "version": order["version"]} if order else None,
    }


def listed(row: asyncpg.Record) -> dict[str, Any]:
    names = ("id", "order_no", "event_id", "kind", "money_fen", "seen", "type", "actor")
    ends = ("raised_at", "resolved_at", "resolved_by", "resolution")
    return {name: row[name] for name in (*names, *ends)}


async def preview(conn: Connection, number: int, wish: Wish, hand: Hand) -> Mapping[str, Any]:
    """What `act` would do now: it is done, and taken back. Raises Problem as `act` does."""
    told: Mapping[str, Any] = {}
    try:
        async with conn.transaction():
            told = await _mend(conn, number, wish, hand)
            raise _OnlyPreview
    except _OnlyPreview:
        return told


async def act(conn: Connection, request: Request, number: int, wish: Wish, hand: Hand) -> Answer:
    """Do it once. Raises Problem: 404, 409 when the order or the anomaly has moved on, 422 for what does not fit."""
    return await once(conn, request, lambda: _mend(conn, number, wish, hand))


async def _mend(conn: Connection, number: int, wish: Wish, hand: Hand) -> Mapping[str, Any]:
    anomaly = _anomaly(await _row(conn, number))
    # The orders before the anomaly, as everywhere; and at once, so that nothing moves behind the person's back.
    orders = await store.lock_orders(conn, {anomaly.order_no, wish.order_no or anomaly.order_no})
    if not await anomalies.lock(conn, number):
        raise Problem(409, "anomaly-resolved", "This anomaly has been put away already.")
    try:
        event = incoming(anomaly, wish, by=hand.by, key=hand.key, now=hand.now, traceparent=current_traceparent())
    except NotPossible as error:
        fitting = list(allowed(anomaly.kind, anomaly.type))
        raise Problem(422, "repair-does-not-fit", f"{error}.", repairs=fitting) from None
    named = orders.get(anomaly.order_no)
    if wish.version is not None and (named is None or named.version != wish.version):
        raise Problem(409, "order-moved-on", "The order has changed since you looked at it: look again.")
    outcome: Change | Parked | None = None  # what names no order of ours can still be put away
    if wish.repair is Repair.APPLY_EVIDENCE:  # as its notice would be: what does not fit stands at the desk for that
        outcome = await decided(conn, event, now=hand.now, patience=hand.patience)
    elif event.order_no in orders or wish.repair is not Repair.DISMISS:
        outcome = await changed(conn, event, now=hand.now, patience=hand.patience)
    resolution = f"{wish.repair}: {wish.reason}"
    await anomalies.resolve(conn, number, by=hand.by, resolution=resolution, now=hand.now)
    return _told(wish, outcome)


def _told(wish: Wish, outcome: Change | Parked | None) -> dict[str, Any]:
    match outcome:
        case None:
            return {"repair": wish.repair, "order_no": None}
        case Parked():
            return {"repair": wish.repair, "order_no": outcome.cause.order_no, "parked": outcome.kind}
        case Change():
            return {
                "repair": wish.repair,
                "order_no": outcome.after.order_no,
                "from": outcome.before.status,
                "to": outcome.after.status,
                "event": outcome.event,
                "version": outcome.after.version,
                "publishes": [event.TOPIC for _, event in outcome.consequences],
            }


async def _row(conn: Connection, number: int) -> asyncpg.Record:
    row = await anomalies.one(conn, number)
    if row is None:
        raise Problem(404, "unknown-anomaly", "No anomaly has this number.")
    return row


def _anomaly(row: asyncpg.Record) -> Anomaly:
    return Anomaly(
        row["id"],
        row["order_no"],
        row["event_id"],
        row["kind"],
        row["type"],
        row["actor"],
        row["occurred_at"],
        row["traceparent"],
        orjson.loads(row["evidence"]),
    )
