"""What we have to ask the channels: errands, orders that wait for their payment, and callbacks that never came.

One function per query in errand_store.sql; nobody here begins or ends a transaction.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any

import aiosql
import asyncpg
import orjson

from orderloop.events import CloseRequested, RefundRequested
from orderloop.postgres import Connection

from .channels import Question

queries: Any = aiosql.from_path(Path(__file__).with_name("errand_store.sql"), "asyncpg")


class Kind(StrEnum):
    CLOSE = "close"  # order-core wants an unpaid order closed
    REFUND = "refund"  # order-core wants money given back
    REFUND_LOOK = "refund_look"  # a notice hinted at a refund without its amount


Identity = tuple[Kind, str]


@dataclass(frozen=True, slots=True)
class Errand:
    kind: Kind
    key: str
    order_no: str
    request: bytes  # JSON: of the event that asked for it, or of the question
    requested_at: datetime
    traceparent: str | None
    attempts: int = 0  # this one included

    @property
    def identity(self) -> Identity:
        return self.kind, self.key


@dataclass(frozen=True, slots=True)
class Awaited:
    """An order that is pending."""

    order_no: str
    channel: str | None
    mchid: str | None
    amount_fen: int
    pending_since: datetime
    traceparent: str | None
    looks: int = 0  # this one included


@dataclass(frozen=True, slots=True)
class Missing:
    """A payment of which the channel knows and no callback has told."""

    channel: str
    transaction_id: str
    order_no: str
    amount_fen: int
    paid_at: datetime
    policy: str
    evidence: dict[str, Any]


def close(event: CloseRequested, event_id: str, at: datetime, traceparent: str | None) -> Errand:
    return Errand(Kind.CLOSE, event_id, event.order_no, event.encode(), at, traceparent)


def refund(event: RefundRequested, at: datetime, traceparent: str | None) -> Errand:
    key = f"{event.channel}:{event.transaction_id}:{event.out_refund_no}"
    return Errand(Kind.REFUND, key, event.order_no, event.encode(), at, traceparent)


def refund_look(question: Question, at: datetime, traceparent: str | None) -> Errand:
    key = f"{question.channel}:{question.transaction_id}:{question.out_refund_no}"
    return Errand(Kind.REFUND_LOOK, key, question.order_no, orjson.dumps(asdict(question)), at, traceparent)


async def add(conn: Connection, errands: Iterable[Errand]) -> set[Identity]:
    """Keep the errands, due at once; return those that nobody had asked for before."""
    ordered = sorted({errand.identity: errand for errand in errands}.values(), key=lambda errand: errand.identity)
    if not ordered:
        return set()
    rows = queries.add(
        conn,
        kinds=[errand.kind for errand in ordered],
        keys=[errand.key for errand in ordered],
        order_nos=[errand.order_no for errand in ordered],
        requests=[errand.request.decode() for errand in ordered],
        requested_ats=[errand.requested_at for errand in ordered],
        traceparents=[errand.traceparent for errand in ordered],
    )
    new = {(Kind(row["kind"]), str(row["key"])) async for row in rows}
    if new:
        await queries.start_timers(conn, kinds=[kind for kind, _ in new], keys=[key for _, key in new])
    return new


async def claim(conn: Connection, *, most: int, lease: timedelta) -> list[Errand]:
    """Lease errands that are due: until the lease ends, nobody else makes them."""
    return [
        Errand(
            kind=Kind(row["kind"]),
            key=row["key"],
            order_no=row["order_no"],
            request=row["request"].encode(),
            requested_at=row["requested_at"],
            traceparent=row["traceparent"],
            attempts=row["attempts"],
        )
        async for row in queries.claim(conn, most=most, lease=lease)
    ]


async def finish(conn: Connection, errand: Errand, outcome: str) -> bool:
    """False when it was finished before, by somebody whose lease had not run out."""
    return await queries.finish(conn, kind=errand.kind, key=errand.key, outcome=outcome) is True


async def postpone(conn: Connection, errand: Errand, wait: timedelta) -> None:
    await queries.postpone(conn, kind=errand.kind, key=errand.key, wait=wait)


async def open_errands(conn: Connection) -> dict[Kind, tuple[int, float]]:
    """Per kind: how many, and the age of the oldest in seconds."""
    return {Kind(row["kind"]): (row["errands"], row["oldest_seconds"]) async for row in queries.open_errands(conn)}


async def forget(conn: Connection, keep: timedelta, most: int) -> int:
    """Forget at most `most` errands finished longer than `keep` (30 days or more) ago; returns how many."""
    return await queries.forget(conn, keep=keep, most=most)


async def await_payments(conn: Connection, orders: Sequence[tuple[Awaited, datetime]]) -> None:
    """Each with the time of its first look. Who is awaited already stays as he is."""
    ordered = sorted(orders, key=lambda one: one[0].order_no)
    await queries.await_payments(
        conn,
        order_nos=[order.order_no for order, _ in ordered],
        channels=[order.channel for order, _ in ordered],
        mchids=[order.mchid for order, _ in ordered],
        amounts=[order.amount_fen for order, _ in ordered],
        sinces=[order.pending_since for order, _ in ordered],
        traceparents=[order.traceparent for order, _ in ordered],
        due_ats=[due_at for _, due_at in ordered],
    )


async def await_no_more(conn: Connection, order_nos: Iterable[str]) -> None:
    await queries.await_no_more(conn, order_nos=sorted(order_nos))


async def claim_looks(conn: Connection, *, most: int, lease: timedelta) -> list[Awaited]:
    return [Awaited(**dict(row)) async for row in queries.claim_looks(conn, most=most, lease=lease)]


async def look_again(conn: Connection, order_no: str, due_at: datetime) -> None:
    await queries.look_again(conn, order_no=order_no, due_at=due_at)


async def is_remembered(conn: Connection, event_id: str) -> bool:
    """Whether somebody has told us the fact."""
    return await queries.is_remembered(conn, event_id=event_id) is True


async def add_missing(conn: Connection, missing: Missing) -> bool:
    """False when it was known before."""
    columns = asdict(missing) | {"evidence": orjson.dumps(missing.evidence).decode()}
    return await queries.add_missing(conn, **columns) is True


async def count_missing(conn: Connection) -> list[asyncpg.Record]:
    """Per channel and policy: callbacks that had not come when the channel was asked, ever."""
    return [row async for row in queries.count_missing(conn)]
