"""The outbox: what is published was staged in the transaction that made it true (sql/outbox.sql is its table)."""

import asyncio
import base64
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import aiosql
import asyncpg
import orjson
import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import MessageSizeTooLargeError, RecordListTooLargeError

from . import kafka, metrics, postgres, tracing
from .envelope import Envelope
from .errors import Transient, reason
from .events import Event
from .failpoints import failpoint
from .postgres import Connection
from .settings import KafkaSettings, OutboxSettings, PostgresSettings

log = structlog.get_logger()

_sql: Any = aiosql.from_path(Path(__file__).with_suffix(".sql"), "asyncpg")

# A missed notification costs at most this; notifications make it milliseconds.
_IDLE_SECONDS = 1.0
_STOP_SECONDS = 3  # what Kafka gets to acknowledge what is on its way when the process has to stop
_Failure = tuple[asyncpg.Record, BaseException]
_REFUSED = (MessageSizeTooLargeError, RecordListTooLargeError)  # for good: no later try will be taken


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
    if not messages:
        return
    await stage_encoded(
        conn,
        order_nos=[m.event.order_no for m in messages],
        topics=[m.event.TOPIC for m in messages],
        event_ids=[m.event_id for m in messages],
        occurred_ats=[m.occurred_at for m in messages],
        traceparents=[m.traceparent for m in messages],
        bodies=[m.event.encode() for m in messages],
    )


async def stage_encoded(
    conn: Connection,
    *,
    order_nos: Sequence[str],
    topics: Sequence[str],
    event_ids: Sequence[str],
    occurred_ats: Sequence[datetime],
    traceparents: Sequence[str | None],
    bodies: Sequence[bytes],
) -> None:
    """`stage` for hot paths that encode their bodies themselves; columns of equal length."""
    await _sql.stage(
        conn,
        order_nos=order_nos,
        topics=topics,
        event_ids=event_ids,
        occurred_ats=occurred_ats,
        traceparents=traceparents,
        bodies=bodies,
        records=[None] * len(order_nos),
    )
    await _sql.wake(conn)


async def stage_dead_letter(conn: Connection, letter: DeadLetter) -> None:
    record = {
        "key": _base64(letter.key) if letter.key is not None else None,
        "headers": [[name, _base64(value) if value is not None else None] for name, value in letter.headers],
    }
    await _sql.stage(
        conn,
        order_nos=[letter.origin],
        topics=[letter.topic],
        event_ids=[letter.origin],
        occurred_ats=[letter.found_at],
        traceparents=[None],
        bodies=[letter.body],
        records=[orjson.dumps(record).decode()],
    )
    await _sql.wake(conn)


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
        self._one_by_one = False  # the broker refused something among several; find out which

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
                return  # another process leads; ask again in a moment
            await conn.add_listener("outbox", self._notified)
            # Whatever fails leaves this block: the next attempt starts at the first row, with a producer of its own.
            async with kafka.producing(kafka.producer(self._kafka, client_id=f"{self._source[1:]}-relay")) as producer:
                metrics.RELAY_LEADS.set(1)
                log.info("relay leads", source=self._source)
                while not stop.is_set():
                    self._wake.clear()
                    if await self._publish(conn, producer, stop) < self._batch:
                        await _first_of(stop, self._wake, seconds=_IDLE_SECONDS)
        finally:
            await conn.close(timeout=2)

    def _notified(self, *_notification: object) -> None:
        self._wake.set()

    async def _publish(self, conn: Connection, producer: AIOKafkaProducer, stop: asyncio.Event) -> int:
        """Publish one batch of rows; returns how many rows it read."""
        with metrics.PUBLISH_SECONDS.time():
            rows = [row async for row in _sql.pending(conn, most=self._batch)]
            if not rows:
                return 0
            failpoint("relay.after_read")
            published: list[asyncpg.Record] = []
            failures: list[_Failure] = []
            parked: set[str] = set()
            for wave in [[row] for row in rows] if self._one_by_one else _waves(rows):
                acknowledged, failures = await self._send(conn, producer, wave, parked, stop)
                published += acknowledged
                if failures:
                    break
            failpoint("relay.after_ack")
            await _sql.published(conn, ids=[row["id"] for row in published])
        for row in published:
            metrics.PUBLISHED.labels(row["topic"]).inc()
        for row, error in failures:
            # Kafka refuses a whole batch of records at once. Which one it meant shows when each is sent alone, and by
            # a new producer: in this one's numbering the refused records are a gap.
            alone, self._one_by_one = self._one_by_one, isinstance(error, _REFUSED)
            if alone and self._one_by_one:
                await self._park(conn, row, error)
            raise error
        self._one_by_one = False
        return len(rows)

    async def _send(
        self,
        conn: Connection,
        producer: AIOKafkaProducer,
        wave: Sequence[asyncpg.Record],
        parked: set[str],
        stop: asyncio.Event,
    ) -> tuple[list[asyncpg.Record], list[_Failure]]:
        """Send rows of different orders and await their acknowledgements; returns what Kafka has, and what it has not.

        Adds the orders whose row is too large to be sent at all to `parked`, and leaves out those that are there.
        """
        pending: list[tuple[asyncpg.Record, asyncio.Future[Any]]] = []
        spans: list[Any] = []
        try:
            for row in wave:
                if row["order_no"] in parked:
                    continue
                key, headers, span = self._record(row)
                spans.append(span)
                topic = self._kafka.topic_prefix + row["topic"]
                try:
                    pending.append((row, await producer.send(topic, row["body"], key=key, headers=headers)))
                except MessageSizeTooLargeError as error:
                    parked.add(row["order_no"])
                    await self._park(conn, row, error)
            failpoint("relay.after_produce")
            await self._acknowledged(conn, [future for _, future in pending], stop)
        finally:
            # In any case: asyncio reports a future whose exception nobody has looked at.
            failures = [(row, error) for row, future in pending if (error := _failure(future)) is not None]
            if failures:
                tracing.fail([span for span in spans if span is not None], failures[0][1])
            tracing.end(spans)
        failed = {row["id"] for row, _ in failures}
        return [row for row, _ in pending if row["id"] not in failed], failures

    async def _acknowledged(
        self, conn: Connection, futures: Sequence[asyncio.Future[Any]], stop: asyncio.Event
    ) -> None:
        """Wait for Kafka, for hours if need be, but only while leading, and not much longer than until `stop`."""
        waiting = set(futures)
        patience = _STOP_SECONDS / _IDLE_SECONDS
        while waiting:
            _, waiting = await asyncio.wait(waiting, timeout=_IDLE_SECONDS)
            if waiting:
                await conn.execute("select 1")  # raises when the session, and the lock with it, is gone
                patience -= stop.is_set()
                if patience < 0:
                    raise Transient("Kafka has not acknowledged what was on its way; it will be published again")

    def _record(self, row: asyncpg.Record) -> tuple[bytes | None, list[tuple[str, bytes | None]], Any]:
        """A row's key, headers and (if sampled) its running span."""
        if row["record"] is not None:
            record = orjson.loads(row["record"])
            key = base64.b64decode(record["key"]) if record["key"] is not None else None
            headers = [
                (name, base64.b64decode(value) if value is not None else None) for name, value in record["headers"]
            ]
            return key, headers, None
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
        return row["order_no"].encode(), [*envelope.headers()], span

    async def _park(self, conn: Connection, row: asyncpg.Record, error: BaseException) -> None:
        log.error(
            "the broker refuses an event for good; its order waits", order_no=row["order_no"], error=reason(error)
        )
        metrics.OUTBOX_PARKED.inc()
        await _sql.park(conn, order_no=row["order_no"], outbox_id=row["id"], reason=type(error).__name__)


def _waves(rows: Sequence[asyncpg.Record]) -> list[list[asyncpg.Record]]:
    """Rows in groups that hold at most one row of an order and topic each, an order's rows in their order.

    A producer sends what is queued behind a failed record all the same, and a broker that has not met the producer
    yet takes it: of one order nothing may be queued behind anything.
    """
    waves: list[list[asyncpg.Record]] = []
    depths: dict[tuple[str, str], int] = {}
    for row in rows:
        lane = (row["order_no"], row["topic"])
        depth = depths[lane] = depths.get(lane, -1) + 1
        if depth == len(waves):
            waves.append([])
        waves[depth].append(row)
    return waves


def _failure(future: asyncio.Future[Any]) -> BaseException | None:
    """Why the record is not in Kafka, as far as is known; None when it is."""
    if not future.done():
        future.cancel()
    return asyncio.CancelledError() if future.cancelled() else future.exception()


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
