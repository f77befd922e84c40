"""The outbox: what is published was staged in the transaction that made it true (sql/outbox.sql is its table)."""

import asyncio
import base64
import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import aiosql
import asyncpg
import orjson
import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    KafkaError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    TopicAuthorizationFailedError,
)
from aiokafka.producer.message_accumulator import BatchBuilder

from . import kafka, metrics, postgres, tracing
from .backlog import Mark, Watch
from .envelope import Envelope
from .errors import Transient, reason
from .events import Event
from .failpoints import failpoint
from .postgres import Connection, column
from .settings import KafkaSettings, OutboxSettings, PostgresSettings

log = structlog.get_logger()

_sql: Any = aiosql.from_path(Path(__file__).with_suffix(".sql"), "asyncpg")

# A missed notification costs at most this; notifications make it milliseconds.
_IDLE_SECONDS = 1.0
_ANSWER_SECONDS = 60  # what Kafka gets to acknowledge what is on its way; a new producer then tries its luck
_STOP_SECONDS = 3  # the same when the process has to stop
_HOLD_SECONDS = 15  # after which a topic that could not be written to is tried again
# Losing the last deletions publishes once more, so that they need not wait for the disk. Rows are always read along the
# index: a plan made while the outbox was empty would sort all of a later backlog for every batch.
_SESSION = "set synchronous_commit = off; set enable_sort = off"

Row = tuple[str, str, str, datetime, str | None, bytes]  # order_no, topic, event id, when, traceparent, body
_Lanes = dict[tuple[str, int], deque[asyncpg.Record]]  # by topic (as on the wire) and partition
_Refusal = tuple[list[asyncpg.Record], int, BaseException]  # a batch of records, its bytes, why it is not in Kafka


@dataclass(frozen=True, slots=True)
class Staged:
    """An event on its way out."""

    event: Event
    event_id: str
    occurred_at: datetime
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that can never work: its own bytes, and why."""

    topic: str
    origin: str  # topic-partition-offset, which is also what it is ordered by
    key: bytes | None
    headers: Sequence[tuple[str, bytes | None]]
    body: bytes
    found_at: datetime


async def stage(conn: Connection, messages: Sequence[Staged]) -> None:
    """Queue events, in this order, for publication after the surrounding transaction commits."""
    rows = [
        (m.event.order_no, m.event.TOPIC, m.event_id, m.occurred_at, m.traceparent, m.event.encode()) for m in messages
    ]
    await stage_encoded(conn, rows)


async def stage_encoded(conn: Connection, rows: Sequence[Row]) -> None:
    """`stage` for hot paths that encode their bodies themselves."""
    if not rows:
        return
    order_nos, topics, event_ids, occurred_ats, traceparents, bodies = zip(*rows, strict=True)
    at_once = occurred_ats.count(occurred_ats[0]) == len(rows)
    await _sql.stage(
        conn,
        order_nos=column(order_nos),
        topics=column(topics),
        event_ids=column(event_ids),
        occurred_ats=occurred_ats[:1] if at_once else occurred_ats,
        traceparents=column(traceparents if any(traceparents) else []),
        bodies=bodies,
        records=[],
    )


async def stage_dead_letter(conn: Connection, letter: DeadLetter) -> None:
    record = {
        "key": _base64(letter.key) if letter.key is not None else None,
        "headers": [[name, _base64(value) if value is not None else None] for name, value in letter.headers],
    }
    await _sql.stage(
        conn,
        order_nos=column([letter.origin]),
        topics=column([letter.topic]),
        event_ids=column([letter.origin]),
        occurred_ats=[letter.found_at],
        traceparents=column([]),
        bodies=[letter.body],
        records=[orjson.dumps(record).decode()],
    )


class Relay:
    """Publishes a service's outbox. Any number may run; one leads, by a lock of its database session.

    Reads what is there in id order, produces, awaits the acknowledgements, and only then deletes by id: a crash
    anywhere publishes again (consumers deduplicate), never not at all, and per order never out of order.
    """

    def __init__(
        self,
        *,
        source: str,
        postgres_settings: PostgresSettings,
        kafka_settings: KafkaSettings,
        settings: OutboxSettings,
    ) -> None:
        self._source = source  # CloudEvents source such as /order-core
        self._dsn = postgres_settings.url.get_secret_value()
        self._kafka = kafka_settings
        self._batch = settings.batch
        self._wake = asyncio.Event()
        self._watch = Watch()
        self._mark = Mark(every=settings.batch)
        self._held: dict[str, float] = {}  # topics that cannot be written to now, and when to try again
        self._most_bytes = kafka.BATCH_BYTES  # in one batch of records; less once a topic was found to take less

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            try:
                with tracing.quiet():
                    await self._lead(stop)
            except Exception as error:  # whatever failed, the rows are still there
                log.warning("relay interrupted, will try again", error=reason(error))
            finally:
                metrics.RELAY_LEADS.set(0)
            await _first_of(stop, seconds=_IDLE_SECONDS)

    async def _lead(self, stop: asyncio.Event) -> None:
        conn = await postgres.connect(self._dsn, application_name=f"{self._source[1:]} relay")
        try:
            if not await _sql.lead(conn):
                self._watch.rest()
                return  # another process leads; ask again in a moment
            await conn.execute(_SESSION)
            await conn.add_listener("outbox", self._notified)
            self._mark = Mark(every=self._batch)
            await self._watch.look(conn, self._mark)
            # Whatever fails leaves this block: the next attempt starts at the first row, with a producer of its own.
            async with kafka.producing(kafka.producer(self._kafka, client_id=f"{self._source[1:]}-relay")) as producer:
                metrics.RELAY_LEADS.set(1)
                log.info("relay leads", source=self._source)
                while not stop.is_set():
                    self._wake.clear()
                    if await self._publish(conn, producer, stop) < self._batch:
                        await _first_of(stop, self._wake, seconds=_IDLE_SECONDS)
                    await self._watch.look(conn, self._mark)
        finally:
            await conn.close(timeout=2)

    def _notified(self, *_notification: object) -> None:
        self._wake.set()

    async def _publish(self, conn: Connection, producer: AIOKafkaProducer, stop: asyncio.Event) -> int:
        """Publish one batch of rows; returns how many rows it read."""
        with metrics.PUBLISH_SECONDS.time():
            rows = [
                row async for row in _sql.pending(conn, mark=self._mark.id, held=[*self._on_hold()], most=self._batch)
            ]
            if not rows:
                return 0
            failpoint("relay.after_read")
            published: list[asyncpg.Record] = []
            lanes = _lanes(producer, await self._writable(producer, rows), self._kafka.topic_prefix)
            refused: list[_Refusal] = []
            while lanes and not refused:
                acknowledged, refused = await self._send(conn, producer, lanes, stop)
                published += acknowledged
            failpoint("relay.after_ack")
            await _sql.published(conn, ids=[row["id"] for row in published])
        for topic, count in Counter(row["topic"] for row in published).items():
            metrics.PUBLISHED.labels(topic).inc(count)
        for rows_refused, size, error in refused:
            await self._refused(conn, rows_refused, size, error)
        await self._mark.follow(conn, rows[-1]["id"])
        return len(rows)

    def _on_hold(self) -> Iterable[str]:
        """Topics that are not to be tried again yet."""
        now = time.monotonic()
        self._held = {topic: until for topic, until in self._held.items() if until > now}
        return self._held

    async def _writable(self, producer: AIOKafkaProducer, rows: Sequence[asyncpg.Record]) -> Sequence[asyncpg.Record]:
        """The rows whose topic is there. The others wait for it; a missing topic is no fault of the data."""
        prefix = self._kafka.topic_prefix
        missing = await kafka.missing(producer, {prefix + topic for topic in {row["topic"] for row in rows}})
        for topic in missing:
            self._hold(topic.removeprefix(prefix), "there is no such topic, or it is hidden from us")
        return [row for row in rows if row["topic"] not in self._held] if missing else rows

    def _hold(self, topic: str, why: str) -> None:
        log.error("a topic cannot be written to; its events wait", topic=topic, error=why)
        self._held[topic] = time.monotonic() + _HOLD_SECONDS

    async def _send(
        self, conn: Connection, producer: AIOKafkaProducer, lanes: "_Lanes", stop: asyncio.Event
    ) -> tuple[list[asyncpg.Record], list["_Refusal"]]:
        """Send one batch of records of each lane and await the acknowledgements.

        Takes what it sends out of the lanes. Returns what Kafka has, and what it has not.
        """
        sent: list[tuple[list[asyncpg.Record], int, asyncio.Future[Any]]] = []
        spans: list[Any] = []
        try:
            for (topic, partition), waiting in [*lanes.items()]:
                records = producer.create_batch()
                rows = self._fill(records, waiting, spans)
                if not waiting:
                    del lanes[topic, partition]
                sent.append((rows, records.size(), await producer.send_batch(records, topic, partition=partition)))
            failpoint("relay.after_produce")
            await self._acknowledged(conn, [future for *_, future in sent], stop)
        finally:
            # In any case: asyncio reports a future whose exception nobody has looked at.
            refused = [(rows, size, error) for rows, size, future in sent if (error := _failure(future)) is not None]
            if refused:
                tracing.fail([span for span in spans if span is not None], refused[0][2])
            tracing.end(spans)
        lost = {id(rows) for rows, *_ in refused}
        return [row for rows, *_ in sent if id(rows) not in lost for row in rows], refused

    def _fill(self, records: BatchBuilder, waiting: deque[asyncpg.Record], spans: list[Any]) -> list[asyncpg.Record]:
        """Move rows from a lane into a batch of records, as many as it may hold but at least one."""
        rows: list[asyncpg.Record] = []
        while waiting and (not rows or records.size() + len(waiting[0]["body"]) < self._most_bytes):
            row = waiting[0]
            key, headers, span = self._record(row)
            if records.append(timestamp=None, key=key, value=row["body"], headers=headers) is None:
                break
            rows.append(waiting.popleft())
            spans.append(span)
        return rows

    async def _acknowledged(
        self, conn: Connection, futures: Sequence[asyncio.Future[Any]], stop: asyncio.Event
    ) -> None:
        """Wait for Kafka, but only while leading, and not much longer than until `stop`."""
        waiting = set(futures)
        patience = _ANSWER_SECONDS / _IDLE_SECONDS
        while waiting:
            _, waiting = await asyncio.wait(waiting, timeout=_IDLE_SECONDS)
            if waiting:
                await conn.execute("select 1")  # raises when the session, and the lock with it, is gone
                patience -= _ANSWER_SECONDS / _STOP_SECONDS if stop.is_set() else 1
                if patience < 0:
                    raise Transient("Kafka has not acknowledged what was on its way; it will be published again")

    def _record(self, row: asyncpg.Record) -> tuple[bytes | None, list[tuple[str, bytes | None]], Any]:
        """A row's key, headers and (if sampled) its running span."""
        if row["record"] is not None:
            record = orjson.loads(row["record"])
            headers = [
                (name, base64.b64decode(value) if value is not None else None) for name, value in record["headers"]
            ]
            return _key(row), headers, None
        span, traceparent = tracing.start_send(
            row["topic"],
            traceparent=row["traceparent"],
            order_no=row["order_no"],
            event_id=row["event_id"],
            size=len(row["body"]),
        )
        envelope = Envelope(
            row["event_id"], self._source, row["topic"], row["occurred_at"], row["order_no"], traceparent
        )
        return _key(row), [*envelope.headers()], span

    async def _refused(self, conn: Connection, rows: Sequence[asyncpg.Record], size: int, error: BaseException) -> None:
        """Raises `error`: in this producer's numbering the refused records are a gap, so another one goes on."""
        match error:
            case TopicAuthorizationFailedError():
                self._hold(rows[0]["topic"], reason(error))
            case MessageSizeTooLargeError() | RecordListTooLargeError() if len(rows) > 1:
                # Kafka refuses a batch as a whole. Which record it meant, if any by itself, smaller ones will show.
                self._most_bytes = size // 2
            case MessageSizeTooLargeError() | RecordListTooLargeError():
                await self._park(conn, rows[0], error)
            case _:
                pass
        raise error

    async def _park(self, conn: Connection, row: asyncpg.Record, error: BaseException) -> None:
        log.error(
            "the broker refuses an event for good; its order waits", order_no=row["order_no"], error=reason(error)
        )
        await _sql.park(conn, order_no=row["order_no"], outbox_id=row["id"], reason=type(error).__name__)
        metrics.OUTBOX_PARKED.inc()


def _lanes(producer: AIOKafkaProducer, rows: Sequence[asyncpg.Record], prefix: str) -> _Lanes:
    """Rows by the topic and partition that they belong into, each lane in id order.

    Of one lane one batch at a time is on its way: a producer sends what is queued behind a failed batch all the same,
    and a broker that has not met the producer yet takes it.
    """
    counts = {topic: kafka.partitions(producer, prefix + topic) for topic in {row["topic"] for row in rows}}
    lanes: _Lanes = defaultdict(deque)
    for row in rows:
        topic = row["topic"]
        lanes[prefix + topic, kafka.partition(_key(row), counts[topic])].append(row)
    return lanes


def _key(row: asyncpg.Record) -> bytes | None:
    if row["record"] is None:
        return row["order_no"].encode()
    key = orjson.loads(row["record"])["key"]
    return base64.b64decode(key) if key is not None else None


def _failure(future: asyncio.Future[Any]) -> BaseException | None:
    """Why the record is not in Kafka, as far as is known; None when it is."""
    if not future.done():
        future.cancel()
    return KafkaError("given up before it was acknowledged") if future.cancelled() else future.exception()


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


async def _first_of(*events: asyncio.Event, seconds: float) -> None:
    """Wait until one of the events is set, or for so long."""
    waits = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waits:
            task.cancel()
