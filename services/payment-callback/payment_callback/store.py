"""payment-callback's tables. One function per query in store.sql; nobody here begins or ends a transaction."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import aiosql
import asyncpg
import orjson

from orderloop.postgres import Connection

from .attempt import Attempt, Verdict

queries: Any = aiosql.from_path(Path(__file__).with_name("store.sql"), "asyncpg")

_SEPARATOR = "\x1f"


@dataclass(frozen=True, slots=True)
class Remembered:
    """A fact, ready to be stored and published: its body is encoded once for both."""

    event_id: str
    order_no: str
    topic: str
    occurred_at: datetime
    traceparent: str | None
    body: bytes


@dataclass(frozen=True, slots=True)
class Page:
    """Where a search stands: the last row that the caller has seen."""

    received_at: datetime
    id: int


async def remember(conn: Connection, facts: Sequence[Remembered]) -> set[str]:
    """Keep the facts; return the event ids of those that nobody had told us before."""
    ordered = sorted(facts, key=lambda fact: fact.event_id)
    rows = queries.remember(
        conn,
        event_ids=[fact.event_id for fact in ordered],
        order_nos=[fact.order_no for fact in ordered],
        topics=[fact.topic for fact in ordered],
        occurred_ats=[fact.occurred_at for fact in ordered],
        traceparents=[fact.traceparent for fact in ordered],
        bodies=[fact.body for fact in ordered],
    )
    return {row["event_id"] async for row in rows}


async def log(conn: Connection, rows: Sequence[tuple[Attempt, Verdict]]) -> None:
    notices = [attempt.notice for attempt, _ in rows]
    await queries.log(
        conn,
        channels=[attempt.channel for attempt, _ in rows],
        verdicts=[verdict for _, verdict in rows],
        reasons=[attempt.refusal or (attempt.notice.remark if attempt.notice else None) for attempt, _ in rows],
        details=[attempt.detail for attempt, _ in rows],
        statuses=[attempt.status for attempt, _ in rows],
        source_addresses=[attempt.source_address for attempt, _ in rows],
        headers=[_json(attempt.headers) for attempt, _ in rows],
        bodies=[attempt.body for attempt, _ in rows],
        shapes=[notice.shape if notice else None for notice in notices],
        order_nos=[_SEPARATOR.join(notice.order_nos if notice else ()) for notice in notices],
        transaction_ids=[_SEPARATOR.join(notice.transaction_ids if notice else ()) for notice in notices],
        event_ids=[_SEPARATOR.join(fact.event_id for fact in notice.facts) if notice else "" for notice in notices],
        trace_ids=[attempt.trace_id for attempt, _ in rows],
    )


async def search(
    conn: Connection,
    *,
    order_no: str | None,
    transaction_id: str | None,
    channel: str | None = None,
    verdict: Verdict | None,
    since: datetime,
    until: datetime,
    before: Page | None,
    most: int,
) -> list[asyncpg.Record]:
    """Newest first, at most `most` rows, older than `before`."""
    rows = queries.search(
        conn,
        order_no=order_no,
        transaction_id=transaction_id,
        channel=channel,
        verdict=verdict,
        since=since,
        until=until,
        before_at=before.received_at if before else None,
        before_id=before.id if before else None,
        most=most,
    )
    return [row async for row in rows]


async def ensure_days(conn: Connection, days: int) -> int:
    """Make the log's partitions for today and the next `days` days; returns how many were missing."""
    return await queries.ensure_days(conn, days=days)


async def one(conn: Connection, page: Page) -> asyncpg.Record | None:
    """A whole row, its body included."""
    return await queries.one(conn, received_at=page.received_at, id=page.id)


async def drop_day(conn: Connection, keep: timedelta) -> str | None:
    """Drop the oldest day of the log beyond `keep`, except what is held; its name, or None when none is left.

    Raises LockNotAvailableError while somebody reads the log for long.
    """
    return await queries.drop_day(conn, keep=keep)


async def forget(conn: Connection, keep: timedelta, most: int) -> int:
    """Forget at most `most` facts older than `keep` (30 days or more); returns how many."""
    return await queries.forget(conn, keep=keep, most=most)


async def hold(conn: Connection, order_no: str, reason: str) -> None:
    """Keep the order's callbacks in the log until `release`."""
    await queries.hold(conn, order_no=order_no, reason=reason)


async def release(conn: Connection, order_no: str) -> None:
    await queries.release(conn, order_no=order_no)


async def holds(conn: Connection) -> list[asyncpg.Record]:
    return [row async for row in queries.holds(conn)]


async def keep_certificates(conn: Connection, pems: Mapping[str, bytes]) -> None:
    """What a download listed, by serial."""
    ordered = sorted(pems)  # two replicas that download at once must not deadlock
    await queries.keep_certificates(conn, serials=ordered, pems=[pems[serial].decode() for serial in ordered])


async def certificates(conn: Connection) -> tuple[list[bytes], datetime | None]:
    """The platform certificates that the channel lists, and when it last did (None: never)."""
    rows = [row async for row in queries.certificates(conn)]
    return [row["pem"].encode() for row in rows], rows[0]["downloaded_at"] if rows else None


async def remembered(
    conn: Connection, *, since: datetime, until: datetime, after: tuple[datetime, str] | None, most: int
) -> tuple[list[Remembered], tuple[datetime, str] | None]:
    """Facts by the time they were told us, oldest first, and where the next page begins (None: there is none)."""
    rows = [
        row
        async for row in queries.remembered(
            conn,
            since=since,
            until=until,
            after_at=after[0] if after else None,
            after_id=after[1] if after else None,
            most=most,
        )
    ]
    facts = [Remembered(**{name: row[name] for name in Remembered.__slots__}) for row in rows]
    return facts, (rows[-1]["received_at"], rows[-1]["event_id"]) if len(rows) == most else None


def _json(headers: Mapping[str, str]) -> str:
    """jsonb holds every character but NUL, and a stranger chooses what stands in a header."""
    return orjson.dumps({name: value.replace("\0", "") for name, value in headers.items()}).decode()
