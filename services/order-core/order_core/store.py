"""order-core's tables. One function per query in store.sql; nobody here begins or ends a transaction."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import aiosql
import asyncpg
import orjson

from orderloop import outbox
from orderloop.events import BY_TOPIC, Event, ParcelStatus, PaymentNotified
from orderloop.inbox import EventKey
from orderloop.postgres import Connection
from orderloop.topics import ORDER_CHANGED

from .money import Payment, Refund, RefundState, Transaction
from .orders import Body, Change, Incoming, Order, Parked
from .parcels import Parcel, ParcelKey
from .states import Status

_sql: Any = aiosql.from_path(Path(__file__).with_name("store.sql"), "asyncpg")


async def claim(conn: Connection, bodies: Mapping[EventKey, bytes | None]) -> set[EventKey]:
    """Remember the events as applied; return those of them that had not been applied before."""
    keys = sorted(bodies)
    rows = _sql.claim(
        conn,
        order_nos=[order_no for order_no, _ in keys],
        event_ids=[event_id for _, event_id in keys],
        body_hashes=[bodies[key] for key in keys],
    )
    return {(row["order_no"], row["event_id"]) async for row in rows}


async def body_hashes(conn: Connection, keys: Collection[EventKey]) -> dict[EventKey, bytes]:
    """What came first under these ids, where that is known."""
    rows = _sql.body_hashes(conn, order_nos=[key[0] for key in keys], event_ids=[key[1] for key in keys])
    return {(row["order_no"], row["event_id"]): row["body_hash"] async for row in rows}


async def lock_orders(conn: Connection, order_nos: Iterable[str]) -> dict[str, Order]:
    """The orders that exist, locked until the transaction ends."""
    return {
        row["order_no"]: Order(
            row["order_no"],
            Status(row["status"]),
            row["version"],
            row["amount_fen"],
            row["currency"],
            row["channel"],
            row["mchid"],
            Status(row["before_refund"]) if row["before_refund"] else None,
        )
        async for row in _sql.lock_orders(conn, order_nos=list(order_nos))
    }


async def parcels(conn: Connection, order_nos: Collection[str]) -> dict[str, dict[ParcelKey, Parcel]]:
    found: dict[str, dict[ParcelKey, Parcel]] = {}
    if order_nos:
        async for row in _sql.parcels(conn, order_nos=list(order_nos)):
            parcel = Parcel(
                row["express_code"],
                row["waybill_no"],
                row["shipment_id"],
                row["parcel_no"],
                row["parcel_count"],
                ParcelStatus(row["status"]),
                row["at"],
            )
            found.setdefault(row["order_no"], {})[parcel.express_code, parcel.waybill_no] = parcel
    return found


async def payments(conn: Connection, order_nos: Collection[str]) -> dict[str, tuple[Payment, ...]]:
    found: dict[str, tuple[Payment, ...]] = {}
    if order_nos:
        async for row in _sql.payments(conn, order_nos=list(order_nos)):
            order_no, *fields = row
            found[order_no] = (*found.get(order_no, ()), Payment(*fields))
    return found


async def refunds(conn: Connection, order_nos: Collection[str]) -> dict[str, tuple[Refund, ...]]:
    found: dict[str, tuple[Refund, ...]] = {}
    if order_nos:
        async for row in _sql.refunds(conn, order_nos=list(order_nos)):
            refund = Refund(
                row["out_refund_no"],
                row["channel"],
                row["transaction_id"],
                row["amount_fen"],
                RefundState(row["state"]),
                row["whole"],
                row["reason"],
                row["refund_id"],
            )
            found[row["order_no"]] = (*found.get(row["order_no"], ()), refund)
    return found


async def taken(conn: Connection, transactions: Collection[Transaction]) -> dict[Transaction, str]:
    """Which order each of these channel transactions has already paid."""
    if not transactions:
        return {}
    rows = _sql.taken(conn, channels=[t[0] for t in transactions], transaction_ids=[t[1] for t in transactions])
    return {(row["channel"], row["transaction_id"]): row["order_no"] async for row in rows}


async def waiting(conn: Connection, order_nos: Iterable[str]) -> list[Incoming]:
    """What waits for these orders, oldest first."""
    return [_incoming(row) async for row in _sql.waiting(conn, order_nos=list(order_nos))]


async def record(conn: Connection, changes: Sequence[Change], *, now: datetime) -> None:
    """Move the orders and write their log."""
    if not changes:
        return
    await _sql.record(
        conn,
        order_nos=[c.after.order_no for c in changes],
        versions=[c.after.version for c in changes],
        befores=[c.before.status for c in changes],
        afters=[c.after.status for c in changes],
        channels=[c.after.channel for c in changes],
        mchids=[c.after.mchid for c in changes],
        before_refunds=[c.after.before_refund for c in changes],
        events=[c.event for c in changes],
        event_ids=[c.cause.event_id for c in changes],
        types=[c.cause.type for c in changes],
        actors=[c.cause.actor for c in changes],
        occurred_ats=[c.cause.occurred_at for c in changes],
        traceparents=[c.cause.traceparent for c in changes],
        details=[orjson.dumps(c.detail).decode() for c in changes],
        now=now,
    )


async def record_parts(conn: Connection, changes: Sequence[Change], *, now: datetime) -> None:
    """Keep what the changes bring along: payments, refunds, parcels."""
    paid = [
        (c.after.order_no, payment)
        for c in changes
        if c.after.payments is not c.before.payments
        for payment in c.after.payments
        if payment not in c.before.payments
    ]
    await _note_payments(conn, paid)
    if paid:
        await _sql.claim_payments(
            conn,
            channels=[payment.channel for _, payment in paid],
            transaction_ids=[payment.transaction_id for _, payment in paid],
            order_nos=[order_no for order_no, _ in paid],
        )
    given_back = {
        (c.after.order_no, refund.out_refund_no): refund
        for c in changes
        if c.after.refunds is not c.before.refunds
        for refund in c.after.refunds
        if refund not in c.before.refunds
    }
    if given_back:
        await _keep_refunds(conn, [(order_no, refund) for (order_no, _), refund in given_back.items()], now)
    moved = {
        (c.after.order_no, *key): parcel
        for c in changes
        if c.after.parcels is not c.before.parcels
        for key, parcel in c.after.parcels.items()
        if c.before.parcels.get(key) is not parcel
    }
    if moved:
        await _keep_parcels(conn, [(order_no, parcel) for (order_no, _, _), parcel in sorted(moved.items())])


async def note_unapplied_payments(conn: Connection, parked: Iterable[Parked], *, known: Mapping[str, Order]) -> None:
    """Money that came and could not be applied still stands beside its order."""
    noted: list[tuple[str, Payment]] = []
    for outcome in parked:
        body = outcome.cause.body
        if isinstance(body, PaymentNotified) and body.order_no in known and body.amount_fen:
            payment = Payment(
                body.channel,
                body.transaction_id,
                body.mchid,
                body.amount_fen,
                body.currency,
                body.paid_at,
                applied=False,
            )
            noted.append((body.order_no, payment))
    await _note_payments(conn, noted)


async def _note_payments(conn: Connection, paid: Sequence[tuple[str, Payment]]) -> None:
    if not paid:
        return
    await _sql.note_payments(
        conn,
        order_nos=[order_no for order_no, _ in paid],
        channels=[p.channel for _, p in paid],
        transaction_ids=[p.transaction_id for _, p in paid],
        mchids=[p.mchid for _, p in paid],
        amounts=[p.amount_fen for _, p in paid],
        currencies=[p.currency for _, p in paid],
        paid_ats=[p.paid_at for _, p in paid],
        applied=[p.applied for _, p in paid],
    )


async def _keep_refunds(conn: Connection, kept: Sequence[tuple[str, Refund]], now: datetime) -> None:
    await _sql.keep_refunds(
        conn,
        order_nos=[order_no for order_no, _ in kept],
        out_refund_nos=[r.out_refund_no for _, r in kept],
        channels=[r.channel for _, r in kept],
        transaction_ids=[r.transaction_id for _, r in kept],
        amounts=[r.amount_fen for _, r in kept],
        states=[r.state for _, r in kept],
        wholes=[r.whole for _, r in kept],
        reasons=[r.reason for _, r in kept],
        refund_ids=[r.refund_id for _, r in kept],
        now=now,
    )
    await _sql.sum_refunds(conn, order_nos=[order_no for order_no, _ in kept])


async def _keep_parcels(conn: Connection, kept: Sequence[tuple[str, Parcel]]) -> None:
    await _sql.keep_parcels(
        conn,
        order_nos=[order_no for order_no, _ in kept],
        express_codes=[p.express_code for _, p in kept],
        waybill_nos=[p.waybill_no for _, p in kept],
        shipment_ids=[p.shipment_id for _, p in kept],
        parcel_nos=[p.parcel_no for _, p in kept],
        parcel_counts=[p.parcel_count for _, p in kept],
        statuses=[p.status for _, p in kept],
        ats=[p.at for _, p in kept],
    )


async def remember(conn: Connection, outcomes: Mapping[EventKey, str]) -> None:
    """Correct what the inbox says of events that were not simply applied."""
    if not outcomes:
        return
    keys = sorted(outcomes)
    await _sql.remember(
        conn,
        order_nos=[order_no for order_no, _ in keys],
        event_ids=[event_id for _, event_id in keys],
        outcomes=[outcomes[key] for key in keys],
    )


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


async def publish(conn: Connection, changes: Sequence[Change], *, now: datetime) -> None:
    """Stage order-changed and the consequences of every change, in the order of the changes."""
    out: list[tuple[str, str, str, str | None, bytes]] = []
    for c in changes:
        event_id = f"{c.after.order_no}:{c.after.version}"
        out.append((c.after.order_no, ORDER_CHANGED, event_id, c.cause.traceparent, _order_changed(c, now)))
        for consequence_id, event in c.consequences:
            out.append((event.order_no, event.TOPIC, consequence_id, c.cause.traceparent, event.encode()))
    if not out:
        return
    order_nos, topics, event_ids, traceparents, bodies = zip(*out, strict=True)
    await outbox.stage_encoded(
        conn,
        order_nos=order_nos,
        topics=topics,
        event_ids=event_ids,
        occurred_ats=[now] * len(out),
        traceparents=traceparents,
        bodies=bodies,
    )


def _order_changed(c: Change, now: datetime) -> bytes:
    """The body of OrderChanged, encoded without the model: this is the hottest line of the house.

    A test decodes it with the model.
    """
    return orjson.dumps(
        {
            "order_no": c.after.order_no,
            "version": c.after.version,
            "from": c.before.status,
            "to": c.after.status,
            "cause": {"event_id": c.cause.event_id, "type": c.cause.type},
            "at": now,
            "actor": c.cause.actor,
            "amount_fen": c.after.amount_fen,
            "channel": c.after.channel,
            "mchid": c.after.mchid,
        }
    )


async def reserve(conn: Connection, *, source: str, external_order_id: str, order_no: str, body_hash: bytes) -> bool:
    """Whether the shop's order is new."""
    row = await _sql.reserve(
        conn, source=source, external_order_id=external_order_id, order_no=order_no, body_hash=body_hash
    )
    return row is not None


async def reserved(conn: Connection, *, source: str, external_order_id: str) -> tuple[str, bytes]:
    row = await _sql.reserved(conn, source=source, external_order_id=external_order_id)
    return row["order_no"], row["body_hash"]


async def create_order(conn: Connection, *, now: datetime, **columns: Any) -> None:
    await _sql.create_order(conn, now=now, **columns)


async def log_reservation(
    conn: Connection, *, order_no: str, event_id: str, actor: str, traceparent: str | None, now: datetime
) -> None:
    await _sql.log_reservation(
        conn, order_no=order_no, event_id=event_id, actor=actor, now=now, traceparent=traceparent
    )


async def ensure_partitions(conn: Connection, *, first_month: date, last_month: date) -> None:
    await _sql.ensure_partitions(conn, first_month=first_month, last_month=last_month)


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
