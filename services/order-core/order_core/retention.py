"""Forgetting in time: what is finished and old leaves, and only that. By the tables' owner, one run at a time.

A month of orders loses its inbox and its log as a whole: the partitions are cut off without stopping anybody and then
dropped. The orders themselves, their payments and their claims stay.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiosql
import asyncpg
import structlog

from . import metrics
from .states import Status

log = structlog.get_logger()

_sql: Any = aiosql.from_path(Path(__file__).with_suffix(".sql"), "asyncpg")

# In 1/8 of a GB some hundred thousand keys lie; deleting them takes a second or two.
_PAGES = 16_384
_REFUND_WINDOW = timedelta(days=366)  # so long the channels give money back
_FINISHED = [Status.COMPLETED, Status.CLOSED, Status.REFUNDED]

# Cutting off waits for whoever reads the table. Nobody queues behind it meanwhile, but a run is not to hang on a
# forgotten psql either. Reading whether a month is finished may take minutes.
_SESSION = """
set lock_timeout = '500ms'; set statement_timeout = '15min'; set transaction_timeout = 0; set idle_session_timeout = 0;
set enable_seqscan = on
"""


@dataclass(frozen=True, slots=True)
class Keep:
    """How long what is kept."""

    keys: timedelta
    attempts: timedelta
    letters: timedelta
    evidence: timedelta
    orders: timedelta


@dataclass(frozen=True, slots=True)
class Line:
    """What became of one thing, or would."""

    what: str
    rows: int | None = None  # of a month nobody counts them
    kept: str | None = None  # why it is still there


Row = Mapping[str, Any]


async def enforce(conn: asyncpg.Connection, keep: Keep, *, now: datetime, dry_run: bool = False) -> list[Line] | None:
    """Remove what is old, or say what would be; None if another run is at it.

    `conn` is the owner's, in no transaction. What is being read is left for the next run.
    """
    await conn.execute(_SESSION)
    if not await _sql.lead(conn):
        return None
    lines = [line async for line in _rows(conn, keep, now, dry_run)]
    lines += [line async for line in _months(conn, now, keep.orders, dry_run)]
    if not dry_run:
        for line in lines:
            if line.kept is None:
                metrics.FORGOTTEN.labels(line.what.partition(" of ")[0]).inc(1 if line.rows is None else line.rows)
        metrics.MONTHS_KEPT.set(sum(line.kept is not None for line in lines))
        metrics.RETENTION_AT.set_to_current_time()
        log.info(
            "retention",
            **{
                line.what.replace(" ", "_"): line.kept or ("gone" if line.rows is None else line.rows) for line in lines
            },
        )
    return lines


async def _rows(conn: asyncpg.Connection, keep: Keep, now: datetime, dry_run: bool) -> AsyncIterator[Line]:
    for what, table, old, forget, age in (
        ("idempotency keys", "idempotency", _sql.old_keys, _sql.forget_keys, keep.keys),
        ("attempts in the access log", "access_log", _sql.old_attempts, _sql.forget_attempts, keep.attempts),
        ("finished dead letters", "dead_letter", _sql.old_letters, _sql.forget_letters, keep.letters),
        ("evidence of resolved anomalies", "anomaly", _sql.old_evidence, _sql.forget_evidence, keep.evidence),
    ):
        before = now - age
        if dry_run:
            yield Line(what, await old(conn, before=before))
            continue
        rows = 0
        for page in range(0, await _sql.pages(conn, relation=table), _PAGES):
            rows += await forget(conn, first=(page, 0), last=(page + _PAGES, 0), before=before)
            await asyncio.sleep(0)  # between two commits others may go first
        yield Line(what, rows)


async def _months(conn: asyncpg.Connection, now: datetime, age: timedelta, dry_run: bool) -> AsyncIterator[Line]:
    pieces: defaultdict[str, list[Row]] = defaultdict(list)
    async for row in _sql.months(conn):
        pieces[row["month"]].append(row)
    for month, parts in pieces.items():
        ends = _end(month)
        if ends + age > now:
            return  # and so do all that follow
        if any(part["pending"] or not part["attached"] for part in parts):
            kept = None  # its end has begun
        else:
            kept = await _sql.why_kept(
                conn,
                month=month,
                next_month=f"{ends:%y%m}",
                finished=_FINISHED,
                untouched_since=now - _REFUND_WINDOW,
            )
        dropped = kept is None and (dry_run or await _drop(conn, parts))
        yield Line(f"month of orders {month}", kept=kept if dropped or kept else "somebody reads it")
        if not dropped and kept is None:
            return  # PostgreSQL cuts off one piece of a table after the other


async def _drop(conn: asyncpg.Connection, parts: Sequence[Row]) -> bool:
    """Whether the month is gone. Broken off anywhere, it goes on from there the next time."""
    try:
        for part in parts:
            if part["attached"]:
                how = "finalize" if part["pending"] else "concurrently"
                await conn.execute(f"alter table {part['parent']} detach partition {part['partition']} {how}")
        for part in parts:
            await conn.execute(f"drop table {part['partition']}")
    except asyncpg.LockNotAvailableError:
        return False
    return True


def _end(month: str) -> datetime:
    """The moment after the last of a month such as 2601, in UTC as order numbers have it."""
    first = datetime.strptime(month, "%y%m").replace(tzinfo=UTC)
    return (first + timedelta(days=32)).replace(day=1)
