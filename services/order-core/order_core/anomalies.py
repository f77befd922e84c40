"""The desk's table: what a person should see. One function per query in anomalies.sql."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import aiosql
import asyncpg
from msgspec import json

from orderloop.events import AnomalyRaised, Event
from orderloop.postgres import Connection

from .orders import Incoming, Parked

_sql: Any = aiosql.from_path(Path(__file__).with_suffix(".sql"), "asyncpg")


async def raise_(conn: Connection, parked: Sequence[Parked]) -> None:
    if not parked:
        return
    await _sql.raise_anomalies(
        conn,
        order_nos=[p.cause.order_no for p in parked],
        event_ids=[p.cause.event_id for p in parked],
        kinds=[p.kind for p in parked],
        moneys=[p.money_fen for p in parked],
        evidences=[_evidence(p.cause) for p in parked],
        types=[p.cause.type for p in parked],
        actors=[p.cause.actor for p in parked],
        occurred_ats=[p.cause.occurred_at for p in parked],
        traceparents=[p.cause.traceparent for p in parked],
    )


async def close_late_evidence(conn: Connection, parked: Iterable[Parked], *, now: datetime) -> None:
    """Evidence of a missing notice that comes after the notice has nothing left to tell."""
    late = [p.cause.key for p in parked if p.kind == "callback_missing"]
    if late:
        await _sql.close_evidence(conn, order_nos=[k[0] for k in late], event_ids=[k[1] for k in late], now=now)


async def page(
    conn: Connection, *, kind: str | None, order_no: str | None, is_open: bool | None, before: int | None, most: int
) -> list[asyncpg.Record]:
    """Newest first, without the evidence."""
    rows = _sql.page(conn, kind=kind, order_no=order_no, is_open=is_open, before=before, most=most)
    return [row async for row in rows]


async def one(conn: Connection, number: int) -> asyncpg.Record | None:
    return await _sql.one(conn, id=number)


async def lock(conn: Connection, number: int) -> bool:
    """Whether it is still open; nobody else can resolve it until the transaction ends."""
    return bool(await _sql.lock(conn, id=number))


async def resolve(conn: Connection, number: int, *, by: str, resolution: str, now: datetime) -> None:
    await _sql.resolve(conn, id=number, by=by, resolution=resolution, now=now)


def _evidence(cause: Incoming) -> str:
    """What the desk is shown. Commands are never parked, so no personal data can be among it."""
    if isinstance(cause.body, AnomalyRaised):
        return json.encode(cause.body.evidence).decode()
    if not isinstance(cause.body, Event):
        return "{}"  # a command that changed the order and left something for a person
    return cause.body.encode().decode()
