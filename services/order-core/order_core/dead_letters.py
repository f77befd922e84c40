"""Dead letters of every group: gathered from their topics, shown without their bytes, sent again with care."""

import asyncio
import base64
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiosql
import asyncpg
import orjson
import structlog
from aiokafka import ConsumerRecord
from aiokafka.errors import KafkaError

from orderloop import consume, kafka, outbox
from orderloop.errors import MalformedEvent, is_transient, reason
from orderloop.postgres import Connection
from orderloop.settings import KafkaSettings
from orderloop.topics import DEAD_LETTERS, GROUPS
from orderloop.topics import dead_letters as letters_of

log = structlog.get_logger()

_sql: Any = aiosql.from_path(Path(__file__).with_suffix(".sql"), "asyncpg")

_GROUP = "order-core-desk"
_SENT = "dlq_sent"  # how often a desk has sent the record again; unlike the other dlq_ headers it travels on
_MOST_SENT = 3  # a record that fails for ever is not sent for ever
_ABOUT = {letters_of(topic, group): (topic, group) for group, topics in GROUPS.items() for topic in topics}

Record = ConsumerRecord[bytes | None, bytes | None]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What sending a letter again would come to, or has come to."""

    id: int
    sent: bool
    why_not: str | None


class Gatherer:
    """Copies dead letters into the desk's table. A letter is there once, however often it is read."""

    def __init__(self, settings: KafkaSettings, pool: asyncpg.Pool) -> None:
        self._settings = settings
        self._pool = pool

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            try:
                await self._gather(stop)
            except Exception as error:  # whatever failed, the letters are still in their topics
                if not (isinstance(error, KafkaError) or is_transient(error)):
                    raise
                log.warning("dead letters are not gathered for the moment", error=reason(error))
                with suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), 2)

    async def _gather(self, stop: asyncio.Event) -> None:
        consumer = kafka.consumer(self._settings, group=_GROUP, topics=DEAD_LETTERS)
        try:
            await consumer.start()
            while not stop.is_set():
                polled = await consumer.getmany(timeout_ms=500, max_records=500)
                if polled:
                    records = [record for part in polled.values() for record in part]
                    async with self._pool.acquire() as conn:
                        await keep(conn, records, prefix=self._settings.topic_prefix)
                    await consumer.commit({part: records[-1].offset + 1 for part, records in polled.items()})
        finally:
            await kafka.leave(consumer)


async def keep(conn: Connection, records: Sequence[Record], *, prefix: str) -> None:
    about = [_ABOUT[record.topic.removeprefix(prefix)] for record in records]
    headers = [{name: (value or b"").decode(errors="replace") for name, value in r.headers} for r in records]
    await _sql.keep(
        conn,
        origins=[h.get("dlq_origin", _place(r)) for r, h in zip(records, headers, strict=True)],
        topics=[topic for topic, _ in about],
        groups=[group for _, group in about],
        record_keys=[record.key for record in records],
        headers=[_packed(record.headers) for record in records],
        bodies=[record.value or b"" for record in records],
        reasons=[h.get("dlq_reason", "") for h in headers],
        attempts=[_count(h.get("dlq_attempts"), 1) for h in headers],
        failed_ats=[_moment(h.get("dlq_first_failure"), r) for r, h in zip(records, headers, strict=True)],
        sent_befores=[_count(h.get(_SENT), 0) for h in headers],
    )


async def page(
    conn: Connection, *, topic: str | None, group: str | None, is_open: bool | None, before: int | None, most: int
) -> list[dict[str, Any]]:
    rows = _sql.page(conn, topic=topic, consumer_group=group, is_open=is_open, before=before, most=most)
    return [{**row, "record_key": (row["record_key"] or b"").decode(errors="replace")} async for row in rows]


async def send_again(
    conn: Connection, ids: Sequence[int], *, by: str, why: str, now: datetime, dry_run: bool
) -> list[Verdict]:
    """Put letters back where they were first read, through the outbox, in the caller's transaction.

    Every group that reads the topic sees them; those that have applied them already see a repeat.
    """
    letters = [row async for row in _sql.whole(conn, ids=list(ids))]
    verdicts = [Verdict(row["id"], not dry_run and _why_not(row) is None, _why_not(row)) for row in letters]
    sent = [row for row, verdict in zip(letters, verdicts, strict=True) if verdict.sent]
    for row in sent:
        await outbox.stage_dead_letter(conn, _again(row, now))
    await _sql.resolve(conn, ids=[row["id"] for row in sent], by=by, resolution=f"sent again: {why}", now=now)
    return verdicts


async def dismiss(conn: Connection, ids: Sequence[int], *, by: str, why: str, now: datetime) -> list[int]:
    """Put letters away that nobody will ever send again; returns those that were still open."""
    dismissed = [row["id"] async for row in _sql.whole(conn, ids=list(ids)) if row["resolved_at"] is None]
    await _sql.resolve(conn, ids=dismissed, by=by, resolution=f"dismissed: {why}", now=now)
    return dismissed


def _again(row: Mapping[str, Any], now: datetime) -> outbox.DeadLetter:
    headers = [(name, value) for name, value in _unpacked(row["headers"]) if not name.startswith("dlq_")]
    return outbox.DeadLetter(
        topic=row["topic"],
        origin=row["origin"],
        key=row["record_key"],
        headers=[*headers, (_SENT, str(row["sent_before"] + 1).encode())],
        body=row["body"],
        found_at=now,
    )


def _why_not(row: Mapping[str, Any]) -> str | None:
    """Why sending it again makes no sense; None when nothing speaks against it."""
    if row["resolved_at"] is not None:
        return f"it has been put away already: {row['resolution']}"
    if row["sent_before"] >= _MOST_SENT:
        return f"it has been sent {row['sent_before']} times and failed each time"
    try:
        headers = _unpacked(row["headers"])
        failed_ms = int(row["failed_at"].timestamp() * 1000)
        consume.decode(row["topic"], headers, row["record_key"], row["body"], timestamp_ms=failed_ms)
    except MalformedEvent as error:
        return f"every consumer would refuse it again: {error}"
    return None


def _place(record: Record) -> str:
    return f"{record.topic}-{record.partition}-{record.offset}"


def _packed(headers: Sequence[tuple[str, bytes | None]]) -> str:
    pairs = [[name, base64.b64encode(value).decode() if value is not None else None] for name, value in headers]
    return orjson.dumps(pairs).decode()


def _unpacked(headers: str) -> list[tuple[str, bytes | None]]:
    return [(name, base64.b64decode(value) if value is not None else None) for name, value in orjson.loads(headers)]


def _count(text: str | None, otherwise: int) -> int:
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 6 else otherwise


def _moment(text: str | None, record: Record) -> datetime:
    with suppress(ValueError):
        if text and (moment := datetime.fromisoformat(text)).tzinfo is not None:
            return moment
    return datetime.fromtimestamp(record.timestamp / 1000, UTC)
