"""logistics-poller's tables. One function per query in store.sql; nobody here begins or ends a transaction."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import aiosql

from orderloop import postgres
from orderloop.events import ParcelStatus, TrackingRequested

from .tracks import OVER, Parcel, Scan, Track

_sql: Any = aiosql.from_path(Path(__file__).with_name("store.sql"), "asyncpg")


@dataclass(frozen=True, slots=True)
class Shipment:
    order_no: str
    shipment_id: str  # the idempotency key at the warehouse
    warehouse: str
    express_code: str
    request: str  # JSON: items and receiver
    traceparent: str | None
    requested_at: datetime


@dataclass(frozen=True, slots=True)
class DueShipment:
    order_no: str
    shipment_id: str
    warehouse: str
    express_code: str
    request: str
    traceparent: str | None
    attempts: int  # this one included


@dataclass(frozen=True, slots=True)
class Label:
    """A parcel to be followed from now on."""

    order_no: str
    express_code: str
    waybill_no: str
    shipment_id: str
    warehouse: str
    label_at: datetime
    phone_tail: str | None
    traceparent: str | None
    due_at: datetime


@dataclass(frozen=True, slots=True)
class DueWaybill:
    express_code: str
    waybill_no: str
    failures: int
    was_due_at: datetime
    parcels: tuple[Parcel, ...]  # one per order that shares the waybill


async def request_shipments(conn: postgres.Connection, shipments: Sequence[Shipment]) -> set[str]:
    """Take shipments in, each due at once. Returns the ids that are new; the others had been taken in before, or
    their order has an active shipment already."""
    rows = _sql.request_shipments(
        conn,
        order_nos=[s.order_no for s in shipments],
        shipment_ids=[s.shipment_id for s in shipments],
        warehouses=[s.warehouse for s in shipments],
        express_codes=[s.express_code for s in shipments],
        requests=[s.request for s in shipments],
        traceparents=[s.traceparent for s in shipments],
        requested_ats=[s.requested_at for s in shipments],
    )
    return {row["shipment_id"] async for row in rows}


async def known_shipments(conn: postgres.Connection, shipments: Sequence[Shipment]) -> set[str]:
    rows = _sql.known_shipments(
        conn, order_nos=[s.order_no for s in shipments], shipment_ids=[s.shipment_id for s in shipments]
    )
    return {row["shipment_id"] async for row in rows}


async def claim_shipments(
    conn: postgres.Connection, *, now: datetime, lease_until: datetime, most: int
) -> list[DueShipment]:
    rows = _sql.claim_shipments(conn, now=now, lease_until=lease_until, most=most)
    return [DueShipment(**row) async for row in rows]


async def postpone_shipment(conn: postgres.Connection, shipment_id: str, *, due_at: datetime) -> None:
    await _sql.postpone_shipment(conn, shipment_id=shipment_id, due_at=due_at)


async def finish_shipment(
    conn: postgres.Connection,
    shipment: DueShipment,
    *,
    status: str,
    finished_at: datetime,
    shipment_no: str | None = None,
    refusal: str | None = None,
) -> bool:
    """Record the warehouse's answer. False when it had been recorded already."""
    rows = _sql.finish_shipment(
        conn,
        order_no=shipment.order_no,
        shipment_id=shipment.shipment_id,
        status=status,
        shipment_no=shipment_no,
        refusal=refusal,
        finished_at=finished_at,
    )
    return bool([row async for row in rows])


async def follow(conn: postgres.Connection, labels: Sequence[Label]) -> int:
    """Follow parcels; returns how many were not followed before."""
    rows = _sql.follow(
        conn,
        order_nos=[label.order_no for label in labels],
        express_codes=[label.express_code for label in labels],
        waybill_nos=[label.waybill_no for label in labels],
        shipment_ids=[label.shipment_id for label in labels],
        warehouses=[label.warehouse for label in labels],
        label_ats=[label.label_at for label in labels],
        phone_tails=[label.phone_tail for label in labels],
        traceparents=[label.traceparent for label in labels],
        due_ats=[label.due_at for label in labels],
    )
    return len([row async for row in rows])


async def follow_again(
    conn: postgres.Connection, request: TrackingRequested, *, now: datetime, due_at: datetime
) -> None:
    """Follow a parcel as if its label were of now; asked for at `due_at`, or before if that was planned."""
    await _sql.follow_again(
        conn,
        order_no=request.order_no,
        express_code=request.express_code,
        waybill_no=request.waybill_no,
        now=now,
        due_at=due_at,
    )


async def claim_waybills(
    conn: postgres.Connection, *, now: datetime, lease_until: datetime, most: int
) -> list[DueWaybill]:
    """Waybills whose time has come, each with its parcels, finished ones included."""
    due: dict[tuple[str, str], DueWaybill] = {}
    async for row in _sql.claim_waybills(conn, now=now, lease_until=lease_until, most=most):
        key = row["express_code"], row["waybill_no"]
        before = due[key].parcels if key in due else ()
        due[key] = DueWaybill(*key, row["failures"], row["was_due_at"], (*before, _parcel(row)))
    return list(due.values())


async def lock_parcels(conn: postgres.Connection, express_code: str, waybill_no: str) -> list[Parcel]:
    """The waybill's parcels that are still followed, locked until the transaction ends."""
    return [_parcel(row) async for row in _sql.lock_parcels(conn, express_code=express_code, waybill_no=waybill_no)]


async def record_parcel(
    conn: postgres.Connection, parcel: Parcel, *, now: datetime, answered_by: str | None, finished: bool
) -> None:
    """Store what a poll made of a parcel. `answered_by` is None when nobody answered."""
    await _sql.record_parcel(
        conn,
        order_no=parcel.order_no,
        express_code=parcel.express_code,
        waybill_no=parcel.waybill_no,
        status=parcel.status.value,
        status_at=parcel.status_at,
        picked_up_at=parcel.picked_up_at,
        silent_at=now if parcel.reported_silent else None,
        finished_at=now if finished else None,
        answered_at=now if answered_by else None,
        answered_by=answered_by,
        recognised_as=parcel.recognised_as,
    )


async def record_scans(conn: postgres.Connection, parcel: Parcel, track: Track, *, now: datetime) -> None:
    await _sql.record_scans(
        conn,
        order_no=parcel.order_no,
        express_code=parcel.express_code,
        waybill_no=parcel.waybill_no,
        ats=[scan.at for scan in track.scans],
        codes=[scan.code for scan in track.scans],
        statuses=[scan.status.value if scan.status else None for scan in track.scans],
        places=[scan.place for scan in track.scans],
        texts=[scan.text for scan in track.scans],
        courier=track.courier,
        told_at=now,
    )


async def postpone_waybill(conn: postgres.Connection, due: DueWaybill, *, due_at: datetime, failures: int) -> None:
    await _sql.postpone_waybill(
        conn, express_code=due.express_code, waybill_no=due.waybill_no, due_at=due_at, failures=failures
    )


async def stop_following(conn: postgres.Connection, express_code: str, waybill_no: str) -> None:
    await _sql.stop_following(conn, express_code=express_code, waybill_no=waybill_no)


@dataclass(frozen=True, slots=True)
class Known:
    """What the database knows of a parcel, for a look-up."""

    parcel: Parcel
    answered_at: datetime | None
    answered_by: str | None
    scans: tuple[Scan, ...]


async def known_parcel(conn: postgres.Connection, express_code: str, waybill_no: str) -> Known | None:
    row = await _sql.parcel_of_waybill(conn, express_code=express_code, waybill_no=waybill_no)
    if row is None:
        return None
    parcel = _parcel(row)
    scans = _sql.scans_of_parcel(conn, order_no=parcel.order_no, express_code=express_code, waybill_no=waybill_no)
    return Known(
        parcel,
        row["answered_at"],
        row["answered_by"],
        tuple([Scan(r["at"], _status(r["status"]), "", r["text"], r["place"]) async for r in scans]),
    )


def is_over(parcel: Parcel) -> bool:
    return parcel.status in OVER or parcel.status is ParcelStatus.EXHAUSTED


def _status(text: str | None) -> ParcelStatus | None:
    return None if text is None else ParcelStatus(text)


def _parcel(row: Any) -> Parcel:
    return Parcel(
        order_no=row["order_no"],
        express_code=row["express_code"],
        waybill_no=row["waybill_no"],
        label_at=row["label_at"],
        status=ParcelStatus(row["status"]),
        status_at=row["status_at"],
        picked_up_at=row["picked_up_at"],
        reported_silent=row["silent_at"] is not None,
        phone_tail=row["phone_tail"],
        recognised_as=row["recognised_as"],
        traceparent=row["traceparent"],
        followed_since=row["followed_since"],
    )
