"""One order, one story (CORE-1): everything that happened, who said so, and what is still open."""

from collections.abc import Mapping
from typing import Any

import asyncpg
import orjson
from msgspec.structs import asdict

from orderloop.postgres import Connection
from orderloop.tracing import trace_id_of

from . import history, parts, store
from .repairs import allowed
from .timers import matters


def summary(row: asyncpg.Record) -> dict[str, Any]:
    """The order as the shop sees it; the receiver stays inside."""
    return {
        name: row[name]
        for name in (
            "order_no",
            "status",
            "version",
            "amount_fen",
            "currency",
            "channel",
            "mchid",
            "source",
            "external_order_id",
            "created_at",
            "updated_at",
            "completed_at",
        )
    }


async def timeline(conn: Connection, order_no: str) -> Mapping[str, Any] | None:
    """The order, its changes in order, its parcels and payments, and what stands at the desk. None if unknown."""
    # One snapshot: a change between two queries must not show in one and be missing in the other.
    async with conn.transaction(isolation="repeatable_read", readonly=True):
        order = await history.order_by_number(conn, order_no)
        if order is None:
            return None
        parcels = (await parts.parcels(conn, [order_no])).get(order_no, {})
        payments = (await store.payments(conn, [order_no])).get(order_no, ())
        shipment = await history.shipment_of(conn, order_no)
        return {
            "order": summary(order),
            "changes": [_change(row) for row in await history.log_of(conn, order_no)],
            "payments": [asdict(payment) for payment in payments],
            "shipment": dict(shipment) if shipment else None,
            "parcels": [asdict(parcel) for parcel in parcels.values()],
            "refunds": [asdict(refund) for refund in (await store.refunds(conn, [order_no])).get(order_no, ())],
            "settlements": [asdict(i) for i in (await parts.instructions(conn, [order_no])).get(order_no, ())],
            "closing": asdict(closing) if (closing := (await parts.closings(conn, [order_no])).get(order_no)) else None,
            "timers": [
                {"kind": timer.kind, "due_at": timer.due_at}
                for timer in await parts.timers(conn, [order_no])
                if matters(timer.kind, order["status"])
            ],
            "waiting": [dict(row) for row in await history.waiting_of(conn, order_no)],
            "anomalies": [_anomaly(row) for row in await history.anomalies_of(conn, order_no)],
        }


def _anomaly(row: asyncpg.Record) -> dict[str, Any]:
    return {**row, "repairs": [] if row["resolved_at"] else list(allowed(row["kind"], row["type"]))}


def _change(row: asyncpg.Record) -> dict[str, Any]:
    return {
        "version": row["version"],
        "from": row["from"],
        "to": row["to"],
        "event": row["event"],
        "event_id": row["event_id"],
        "type": row["type"],
        "actor": row["actor"],
        "occurred_at": row["occurred_at"],
        "recorded_at": row["recorded_at"],
        "trace_id": trace_id_of(row["traceparent"]),
        "detail": orjson.loads(row["detail"]) if row["detail"] else None,
    }
