"""order-core's tables. One function per query in store.sql; nobody here begins or ends a transaction."""

from collections.abc import Collection, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import aiosql
import asyncpg
import orjson

from orderloop import outbox
from orderloop.errors import Transient
from orderloop.events import PaymentNotified
from orderloop.inbox import EventKey
from orderloop.postgres import Connection, column
from orderloop.topics import ORDER_CHANGED

from .money import Payment, Refund, RefundState, Transaction
from .orders import ENDS, Change, Order, Parked
from .states import Status

_sql: Any = aiosql.from_path(Path(__file__).with_name("store.sql"), "asyncpg")

_STATUS = {status.value: status for status in Status}


class TransactionTaken(Transient):
    """Another order has claimed a transaction since this batch looked. Decided anew, the batch sees it."""


async def claim(
    conn: Connection, keys: Collection[EventKey], body_hashes: Mapping[EventKey, bytes] = MappingProxyType({})
) -> set[EventKey]:
    """Remember the events as applied; return those of them that had not been applied before."""
    ordered = sorted(keys)
    before = _sql.claim(
        conn,
        order_nos=column([order_no for order_no, _ in ordered]),
        event_ids=column([event_id for _, event_id in ordered]),
        body_hashes=[body_hashes.get(key) for key in ordered] if body_hashes else [],
    )
    return {*keys}.difference([(order_no, event_id) async for order_no, event_id in before])


async def body_hashes(conn: Connection, keys: Collection[EventKey]) -> dict[EventKey, bytes]:
    """What came first under these ids, where that is known."""
    rows = _sql.body_hashes(conn, order_nos=[key[0] for key in keys], event_ids=[key[1] for key in keys])
    return {(row["order_no"], row["event_id"]): row["body_hash"] async for row in rows}


async def lock_orders(conn: Connection, order_nos: Iterable[str]) -> dict[str, Order]:
    """The orders that exist, locked until the transaction ends."""
    orders: dict[str, Order] = {}
    async for row in _sql.lock_orders(conn, order_nos=column([*order_nos])):
        order_no, status, version, amount_fen, currency, channel, mchid, before_refund = row
        orders[order_no] = Order(
            order_no,
            _STATUS[status],
            version,
            amount_fen,
            currency,
            channel,
            mchid,
            _STATUS[before_refund] if before_refund else None,
        )
    return orders


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
    """Which order each of these channel transactions has paid, or goes back from."""
    if not transactions:
        return {}
    rows = _sql.taken(
        conn, channels=column([t[0] for t in transactions]), transaction_ids=column([t[1] for t in transactions])
    )
    return {(row["channel"], row["transaction_id"]): row["order_no"] async for row in rows}


async def record(conn: Connection, changes: Sequence[Change], *, now: datetime) -> None:
    """Move the orders, keep what they were paid with, write their log, and close the anomalies that this mends."""
    if not changes:
        return
    last = {change.after.order_no: change.after.version for change in changes}
    rows: list[tuple[object, ...]] = []
    for change in changes:
        before, after, cause = change.before, change.after, change.cause
        rows.append(
            (
                after.order_no,
                after.version,
                after.version == last[after.order_no],
                before.status,
                after.status,
                after.channel,
                after.mchid,
                after.before_refund,
                change.event,
                cause.event_id,
                cause.type,
                cause.actor,
                cause.occurred_at.timestamp(),
                cause.traceparent,
                orjson.dumps(change.detail).decode(),
                ENDS.get(change.event),
                *(_NOT_PAID if after.payments is before.payments else _paid(after.payments[-1])),
            )
        )
    with _claiming():
        await _sql.record(conn, changes=rows, now=now)


async def record_refunds(conn: Connection, changes: Sequence[Change], *, now: datetime) -> None:
    """Keep the refunds that the changes bring along."""
    given_back = {
        (c.after.order_no, refund.out_refund_no): refund
        for c in changes
        if c.after.refunds is not c.before.refunds
        for refund in c.after.refunds
        if refund not in c.before.refunds
    }
    if given_back:
        with _claiming():
            await _keep_refunds(conn, [(order_no, refund) for (order_no, _), refund in given_back.items()], now)


def _paid(payment: Payment) -> tuple[object, ...]:
    """What of the applied payment its order does not say."""
    return payment.transaction_id, payment.amount_fen, payment.currency, payment.paid_at.timestamp()


_NOT_PAID = (None,) * 4


@contextmanager
def _claiming() -> Generator[None]:
    try:
        yield
    except asyncpg.UniqueViolationError as error:
        if getattr(error, "constraint_name", None) != "a_transaction_pays_one_order":
            raise
        raise TransactionTaken("another order has just claimed this transaction") from error


async def note_unapplied_payments(conn: Connection, parked: Iterable[Parked], *, known: Mapping[str, Order]) -> None:
    """Money that came and could not be applied still stands beside its order."""
    bodies = [outcome.cause.body for outcome in parked]
    noted = [
        (b.order_no, b.channel, b.transaction_id, b.mchid, b.amount_fen, b.currency, b.paid_at, False)
        for b in bodies
        if isinstance(b, PaymentNotified) and b.order_no in known and b.amount_fen
    ]
    if noted:
        await _sql.note_payments(conn, payments=noted)


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


async def publish(conn: Connection, changes: Sequence[Change], *, now: datetime) -> None:
    """Stage order-changed and the consequences of every change, in the order of the changes."""
    rows: list[outbox.Row] = []
    for c in changes:
        after, cause = c.after, c.cause
        event_id = f"{after.order_no}:{after.version}"
        rows.append((after.order_no, ORDER_CHANGED, event_id, now, cause.traceparent, _order_changed(c, now)))
        for consequence_id, event in c.consequences:
            rows.append((event.order_no, event.TOPIC, consequence_id, now, cause.traceparent, event.encode()))
    await outbox.stage_encoded(conn, rows)


def _order_changed(c: Change, now: datetime) -> bytes:
    """The body of OrderChanged, encoded without the model: this is the hottest line of the house.

    A test decodes it with the model. What orjson returns stands in the whole buffer that it wrote into: kept by the
    hundred, such buffers cost 2 µs each in fresh memory, and a copy of what is in them 0.2.
    """
    body = orjson.dumps(
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
    return bytes(memoryview(body))


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
