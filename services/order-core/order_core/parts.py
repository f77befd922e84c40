"""An order's smaller tables: parcels, shipment, instructions, closing, timers, and what waits for it.

One function per query in parts.sql.
"""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, cast

import aiosql
import asyncpg
from msgspec.structs import astuple

from orderloop.events import BY_TOPIC, Event, ParcelStatus
from orderloop.inbox import EventKey
from orderloop.postgres import Connection, column

from .orders import Body, Change, Closing, Incoming, Instruction, InstructionState, Order, Ship
from .parcels import Parcel, ParcelKey
from .timers import Kind, Timer

_sql: Any = aiosql.from_path(Path(__file__).with_suffix(".sql"), "asyncpg")

_PARCEL = {status.value: status for status in ParcelStatus}


async def parcels(conn: Connection, order_nos: Collection[str]) -> dict[str, dict[ParcelKey, Parcel]]:
    found: dict[str, dict[ParcelKey, Parcel]] = {}
    if order_nos:
        async for order_no, express_code, waybill_no, shipment_id, number, count, status, at in _sql.parcels(
            conn, order_nos=column([*order_nos])
        ):
            parcel = Parcel(express_code, waybill_no, shipment_id, number, count, _PARCEL[status], at)
            found.setdefault(order_no, {})[express_code, waybill_no] = parcel
    return found


async def instructions(conn: Connection, order_nos: Collection[str]) -> dict[str, tuple[Instruction, ...]]:
    found: dict[str, tuple[Instruction, ...]] = {}
    if order_nos:
        async for row in _sql.instructions(conn, order_nos=list(order_nos)):
            one = Instruction(row["instruction_id"], row["amount_fen"], row["asked"], InstructionState(row["state"]))
            found[row["order_no"]] = (*found.get(row["order_no"], ()), one)
    return found


async def closings(conn: Connection, order_nos: Collection[str]) -> dict[str, Closing]:
    if not order_nos:
        return {}
    rows = _sql.closings(conn, order_nos=list(order_nos))
    return {row["order_no"]: Closing(row["asked"], row["open"]) async for row in rows}


async def timers(conn: Connection, order_nos: Collection[str]) -> list[Timer]:
    return [_timer(row) async for row in _sql.timers(conn, order_nos=list(order_nos))]


async def record(conn: Connection, changes: Sequence[Change], heard: Iterable[Order], *, now: datetime) -> None:
    """Keep what the changes bring along, of an order changed more than once only its last state.

    Of the orders in `heard` the instructions are kept whatever has changed: a word about one did not move its order.
    """
    moved = {
        (c.after.order_no, *key): parcel
        for c in changes
        if c.after.parcels is not c.before.parcels
        for key, parcel in c.after.parcels.items()
        if c.before.parcels.get(key) is not parcel
    }
    if moved:
        await _sql.keep_parcels(conn, parcels=[_row(key[0], parcel) for key, parcel in sorted(moved.items())])
    settled = {
        (c.after.order_no, i.instruction_id): i
        for c in changes
        if c.after.instructions is not c.before.instructions
        for i in c.after.instructions
        if i not in c.before.instructions
    }
    settled |= {(order.order_no, i.instruction_id): i for order in heard for i in order.instructions}
    if settled:
        await _sql.keep_instructions(
            conn,
            order_nos=[order_no for order_no, _ in settled],
            instruction_ids=[instruction_id for _, instruction_id in settled],
            amounts=[i.amount_fen for i in settled.values()],
            asked=[i.asked for i in settled.values()],
            states=[i.state for i in settled.values()],
        )
    closing = {c.after.order_no: c.after.closing for c in changes if c.after.closing is not c.before.closing}
    if closings := {order_no: closing for order_no, closing in closing.items() if closing is not None}:
        await _sql.keep_closings(
            conn,
            order_nos=list(closings),
            asked=[closing.asked for closing in closings.values()],
            opens=[closing.open for closing in closings.values()],
        )
    for change in changes:
        if isinstance(change.cause.body, Ship):
            await _sql.keep_shipment(
                conn,
                order_no=change.after.order_no,
                shipment_id=change.cause.body.shipment_id,
                warehouse=change.cause.body.decision.warehouse,
                express_code=change.cause.body.decision.express_code,
                now=now,
            )


def _row(order_no: str, parcel: Parcel) -> tuple[object, ...]:
    *fields, at = astuple(parcel)
    return order_no, *fields, at.timestamp()


async def set_timers(conn: Connection, timers: Sequence[Timer]) -> None:
    if timers:
        await _sql.set_timers(
            conn,
            order_nos=[timer.order_no for timer in timers],
            kinds=[timer.kind for timer in timers],
            due_ats=[timer.due_at for timer in timers],
        )


async def due_orders(conn: Connection, *, now: datetime, most: int) -> list[str]:
    return [row["order_no"] async for row in _sql.due_orders(conn, now=now, most=most)]


async def take_timers(conn: Connection, order_nos: Collection[str], *, now: datetime) -> list[Timer]:
    """Take away what is due for these orders; the caller holds their locks."""
    return [_timer(row) async for row in _sql.take_timers(conn, order_nos=list(order_nos), now=now)]


async def waiting(conn: Connection, order_nos: Iterable[str]) -> list[Incoming]:
    """What waits for these orders, oldest first."""
    return [_incoming(row) async for row in _sql.waiting(conn, order_nos=column([*order_nos]))]


async def wait(conn: Connection, events: Sequence[Incoming]) -> None:
    if not events:
        return
    await _sql.wait(
        conn,
        order_nos=[e.order_no for e in events],
        event_ids=[e.event_id for e in events],
        types=[e.type for e in events],
        actors=[e.actor for e in events],
        occurred_ats=[e.occurred_at for e in events],
        traceparents=[e.traceparent for e in events],
        bodies=[_encoded(e.body) for e in events],
    )


async def stop_waiting(conn: Connection, keys: Collection[EventKey]) -> None:
    if keys:
        await _sql.no_longer_waiting(conn, order_nos=[key[0] for key in keys], event_ids=[key[1] for key in keys])


async def overdue(conn: Connection, *, longest: timedelta, most: int) -> list[Incoming]:
    """Events whose predecessor has not come for so long, locked until the transaction ends."""
    return [_incoming(row) async for row in _sql.overdue(conn, longest=longest, most=most)]


def _timer(row: Any) -> Timer:
    return Timer(row["order_no"], Kind(row["kind"]), row["due_at"])


def _encoded(body: Body) -> bytes:
    if not isinstance(body, Event):
        raise TypeError(f"{type(body).__name__} is a command: it is answered at once and never waits")
    return body.encode()


def _incoming(row: asyncpg.Record) -> Incoming:
    return Incoming(
        row["order_no"],
        row["event_id"],
        row["type"],
        row["actor"],
        row["occurred_at"],
        cast(Body, BY_TOPIC[row["type"]].decode(row["body"])),
        row["traceparent"],
    )
