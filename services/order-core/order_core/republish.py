"""Publishing once more what the log says, after a restore: the same events under the same ids.

Whoever has them already sees repeats. docs/runbooks/restore-and-rewind.md says when and how.
"""

from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import aiosql
import asyncpg
import orjson
from msgspec import json

from orderloop import outbox
from orderloop.events import (
    Cause,
    CloseRequested,
    Decision,
    Event,
    Item,
    OrderChanged,
    Receiver,
    RefundRequested,
    SettlementRequested,
    ShipmentRequested,
    TrackingRequested,
)
from orderloop.outbox import Staged
from orderloop.postgres import Connection

from . import states, store
from .money import Payment, applied

_sql: Any = aiosql.from_path(Path(__file__).with_suffix(".sql"), "asyncpg")

_MOST = 500  # one transaction's worth

Row = Mapping[str, Any]


async def republish(pool: asyncpg.Pool, *, since: datetime) -> int:
    """Stage every change that was recorded since then, and what it asked of others; returns how many events."""
    count, after = 0, ("", 0)
    while True:
        async with pool.acquire() as conn, conn.transaction():
            rows = [
                row
                async for row in _sql.changes(
                    conn, since=since, after_order_no=after[0], after_version=after[1], most=_MOST
                )
            ]
            staged = await _staged(conn, rows)
            await outbox.stage(conn, staged)
        count += len(staged)
        if len(rows) < _MOST:
            return count
        after = rows[-1]["order_no"], rows[-1]["version"]


async def _staged(conn: Connection, rows: list[Row]) -> list[Staged]:
    payments = await store.payments(conn, {row["order_no"] for row in rows})
    return [
        Staged(event, event_id, row["recorded_at"], row["traceparent"])
        for row in rows
        for event_id, event in _events(row, payments.get(row["order_no"], ()))
    ]


def _events(row: Row, payments: tuple[Payment, ...]) -> Iterator[tuple[str, Event]]:
    """The change itself, and its consequence if it had one; under the ids they had."""
    detail: dict[str, Any] = orjson.loads(row["detail"]) if row["detail"] else {}
    yield (
        f"{row['order_no']}:{row['version']}",
        OrderChanged(
            **{name: row[name] for name in ("order_no", "version", "to", "actor", "amount_fen", "channel", "mchid")},
            from_=row["from"],
            cause=Cause(event_id=row["event_id"], type=row["type"]),
            at=row["recorded_at"],
        ),
    )
    match row["event"]:
        case states.Event.SHIPMENT_ACCEPTED:
            yield f"{detail['shipment_id']}:requested", _shipment(row, detail)
        case states.Event.RECEIPT_CONFIRMED | states.Event.SETTLEMENT_RETRIED:
            asked = "" if detail["asked"] == 1 else f":{detail['asked']}"
            yield f"{detail['instruction_id']}:requested{asked}", _settlement(row, detail, payments)
        case states.Event.CLOSE_REQUESTED:
            yield f"{row['order_no']}:close:{detail['asked']}", _close(row, detail)
        case states.Event.REFUND_REQUESTED | states.Event.PART_REFUND_REQUESTED:
            yield f"{detail['out_refund_no']}:requested", _refund(row, detail, payments)
        case states.Event.TRACKING_REQUESTED:
            parcel = f"{detail['express_code']}:{detail['waybill_no']}"
            yield (
                f"{parcel}:tracking-requested:{row['version']}",
                TrackingRequested(
                    order_no=row["order_no"],
                    express_code=detail["express_code"],
                    waybill_no=detail["waybill_no"],
                    requested_at=datetime.fromisoformat(detail["requested_at"]),
                ),
            )
        case _:
            pass


def _shipment(row: Row, detail: Row) -> ShipmentRequested:
    return ShipmentRequested(
        order_no=row["order_no"],
        shipment_id=detail["shipment_id"],
        decision=Decision(warehouse=detail["warehouse"], express_code=detail["express_code"]),
        items=json.decode(row["items"], type=tuple[Item, ...]),
        receiver=json.decode(row["receiver"], type=Receiver),
    )


def _settlement(row: Row, detail: Row, payments: tuple[Payment, ...]) -> SettlementRequested:
    payment = applied(payments)
    return SettlementRequested(
        order_no=row["order_no"],
        instruction_id=detail["instruction_id"],
        channel=row["channel"] or "",
        transaction_ids=(payment.transaction_id,) if payment else (),
        amount_fen=detail["amount_fen"],
        attempt=detail["asked"],
    )


def _close(row: Row, detail: Row) -> CloseRequested:
    return CloseRequested(
        order_no=row["order_no"],
        channel=row["channel"],
        mchid=row["mchid"],
        transaction_ids=tuple(detail["transaction_ids"]),
        amount_fen=row["amount_fen"],
    )


def _refund(row: Row, detail: Row, payments: tuple[Payment, ...]) -> RefundRequested:
    payment = next(p for p in payments if p.transaction == (detail["channel"], detail["transaction_id"]))
    return RefundRequested(
        order_no=row["order_no"],
        channel=payment.channel,
        mchid=payment.mchid,
        transaction_id=payment.transaction_id,
        out_refund_no=detail["out_refund_no"],
        refund_fen=detail["amount_fen"],
        total_fen=payment.amount_fen,
        reason=detail["reason"],
    )
