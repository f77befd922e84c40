"""Batches from Kafka into a database: at least once from the broker, exactly once in effect.

The rules: the handler applies a whole batch in one transaction; offsets are committed after it; the infrastructure's
errors are retried without limit; the data's errors are bisected down to the poison event, which alone is parked in
`<topic>.<group>.dlq`; and a fuse stops the consumer when it parks too much, so that a bad deploy cannot drain a topic.

Lanes work at once, each for its share of the partitions: the Python of one runs while PostgreSQL works for the others.
That is right because an order lives in the same partition of every topic: what happens to it stays in one lane, in its
order. Each lane polls, applies and commits by itself, with transactions, retries and bisecting of its own; what lanes
may share all the same (an order that a foreign producer misplaced, a key that is unique across orders) is decided by
locks and keys, as between two processes.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, TypeVar

import asyncpg
import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError
from msgspec import Struct
from msgspec.structs import replace

from . import kafka, metrics, outbox, tracing
from .envelope import Envelope, Headers
from .errors import MalformedEvent, Permanent, Transient, is_transient, reason
from .events import BY_TOPIC, Event
from .failpoints import failpoint
from .fuse import Fuse, FuseBlown
from .health import Health
from .settings import KafkaSettings
from .topics import dead_letters

log = structlog.get_logger()

Record = ConsumerRecord[bytes | None, bytes | None]
Polled = Mapping[TopicPartition, Sequence[Record]]

LANES = 4  # one computes while others wait for PostgreSQL; the pool needs as many connections
_MOST_RECORDS = 500  # a transaction's worth under lag; an idle lane takes what is there
_POLL_MS = 500
_JOIN_MS = 50  # until a lane looks again what has been assigned to it
_NOBODYS = TopicPartition("", 0)  # a lane without partitions asks for this one: asking for none means all
_RETRY_SECONDS = (0.1, 0.3, 1.0, 2.0, 5.0)  # in place; after that the consumer polls again to stay a member
_PATIENCE_SECONDS = 3  # what Kafka gets to finish an answer when the process has to stop
_ANSWER_SECONDS = 60  # what it gets otherwise, several requests' worth; a new client then tries its luck


class Received(Struct, frozen=True, gc=False):
    """An event as it came, with the context that whatever it causes belongs under."""

    envelope: Envelope
    event: Event
    record: Record  # its own bytes, should it have to be parked
    traceparent: str | None

    @property
    def topic(self) -> str:
        """Without the prefix that the wire may carry."""
        return self.envelope.type

    @property
    def order_no(self) -> str:
        return self.envelope.subject

    @property
    def event_id(self) -> str:
        return self.envelope.event_id


T = TypeVar("T")
Handler = Callable[[Sequence[Received]], Awaitable[None]]


class Consumer:
    """One group's worker: one poll per lane in flight, every topic of an order in the same hands."""

    def __init__(
        self,
        settings: KafkaSettings,
        *,
        group: str,
        topics: Sequence[str],
        handle: Handler,
        pool: asyncpg.Pool,
        health: Health,
    ) -> None:
        self._settings = settings
        self._group = group
        self._topics = topics
        self._handle = handle
        self._pool = pool
        self._health = health
        self._fuse = Fuse()
        # origins of the batches in flight that need not be parked again when these are retried
        self._parked: set[str] = set()
        self._joined: AIOKafkaConsumer | None = None
        health.require("kafka", self._check)

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            try:
                await self._consume(stop)
            except FuseBlown:
                # Restarting would reset the fuse and go on parking: stand still, not ready, until a person looks.
                log.critical("fuse blown: consuming has stopped; see docs/runbooks/fuse-blown.md", group=self._group)
                metrics.FUSE_BLOWN.labels(self._group).set(1)
                while not stop.is_set():
                    self._beat()
                    await _pause(stop, 5)
            except (KafkaError, OSError, Transient) as error:
                log.warning("kafka is away, will join again", group=self._group, error=reason(error))
                self._beat()
                await _pause(stop, 1)

    async def _consume(self, stop: asyncio.Event) -> None:
        consumer = kafka.consumer(self._settings, group=self._group, topics=self._topics)
        try:
            await self._answered(consumer.start(), stop)
            self._joined = consumer
            over = asyncio.Event()  # for all lanes, as soon as it is for one
            running = [self._run_lane(number, consumer, stop, over) for number in range(LANES)]
            # Every lane comes to its end before an error of one is raised: none runs on behind a consumer that left.
            ends = await asyncio.gather(*running, return_exceptions=True)
            for end in ends:
                if isinstance(end, BaseException):
                    raise end
        finally:
            self._joined = None
            await kafka.leave(consumer)

    async def _run_lane(self, lane: int, consumer: AIOKafkaConsumer, stop: asyncio.Event, over: asyncio.Event) -> None:
        try:
            while not (stop.is_set() or over.is_set()):
                self._beat(lane)
                mine = [partition for partition in consumer.assignment() if lane_of(partition) == lane]
                polled = await consumer.getmany(
                    *mine, _NOBODYS, timeout_ms=_POLL_MS if mine else _JOIN_MS, max_records=_MOST_RECORDS
                )
                if not polled:
                    continue
                if await self._settle(polled, stop, lane=lane):
                    await self._commit(consumer, polled, stop, lane=lane)
                    continue
                for partition, records in polled.items():
                    with suppress(IllegalStateError):  # the partition is somebody else's by now
                        consumer.seek(partition, records[0].offset)
        finally:
            over.set()

    async def _settle(self, polled: Polled, stop: asyncio.Event, *, lane: int) -> bool:
        """Apply or park one batch. False when the infrastructure kept failing: it has to be taken again."""
        failpoint(f"{self._group}.after_poll")
        received, poison = self._decode(polled)
        with metrics.BATCH_SECONDS.labels(self._group).time():
            for delay in (*_RETRY_SECONDS, None):
                try:
                    while poison:
                        await self._park(*poison[0])
                        poison.pop(0)
                    await self._apply(received, lane=lane)
                    break
                except Exception as error:
                    if not is_transient(error):
                        raise
                    metrics.BATCH_RETRIES.labels(self._group).inc()
                    log.warning(
                        "batch will be tried again", group=self._group, events=len(received), error=reason(error)
                    )
                    if delay is None or stop.is_set():
                        return False
                    self._beat(lane)
                    await _pause(stop, delay)
        if self._parked:
            self._parked -= {_origin(record) for records in polled.values() for record in records}
        return True

    async def _apply(self, received: Sequence[Received], *, lane: int, attempt: int = 1) -> None:
        """The whole batch at once; if its data is at fault, halves, down to the one event that is."""
        if self._parked:
            received = [one for one in received if _origin(one.record) not in self._parked]
        if not received:
            return
        self._beat(lane)
        try:
            await self._handle_traced(received)
        except Exception as error:
            if is_transient(error):
                raise
            if len(received) > 1:
                middle = len(received) // 2
                await self._apply(received[:middle], lane=lane, attempt=attempt + 1)
                await self._apply(received[middle:], lane=lane, attempt=attempt + 1)
                return
            await self._park(received[0].record, received[0].topic, error, attempts=attempt)
            return
        self._fuse.passed(len(received))
        metrics.BATCH_SIZE.labels(self._group).observe(len(received))
        for topic, count in Counter(one.topic for one in received).items():
            metrics.CONSUMED.labels(topic, self._group).inc(count)

    async def _handle_traced(self, received: Sequence[Received]) -> None:
        spans: list[Any] = []
        traced = list(received)
        for n, one in enumerate(received):
            if not tracing.is_sampled(one.traceparent):
                continue
            span, traceparent = tracing.start_process(
                one.topic,
                traceparent=one.envelope.traceparent,
                order_no=one.order_no,
                event_id=one.event_id,
                partition=one.record.partition,
                offset=one.record.offset,
                group=self._group,
            )
            spans.append(span)
            traced[n] = replace(one, traceparent=traceparent)
        try:
            with tracing.batch(spans, group=self._group, count=len(received)):
                await self._handle(traced)
        finally:
            tracing.end(spans)

    def _decode(self, polled: Polled) -> tuple[list[Received], list[tuple[Record, str, Exception]]]:
        """Events in the order of our topics (causes before effects), and the records that are none."""
        received: list[Received] = []
        poison: list[tuple[Record, str, Exception]] = []
        prefix = len(self._settings.topic_prefix)
        rank = {topic: n for n, topic in enumerate(self._topics)}
        for partition, records in sorted(polled.items(), key=lambda item: (rank[item[0].topic[prefix:]], item[0])):
            topic = partition.topic[prefix:]
            for record in records:
                try:
                    received.append(_receive(topic, record))
                except MalformedEvent as error:
                    poison.append((record, topic, error))
        return received, poison

    async def _park(self, record: Record, topic: str, error: Exception, *, attempts: int = 1) -> None:
        now = datetime.now(UTC)
        if (origin := _origin(record)) in self._parked:
            return
        async with self._pool.acquire() as conn, conn.transaction():
            await outbox.stage_dead_letter(
                conn,
                outbox.DeadLetter(
                    topic=dead_letters(topic, self._group),
                    origin=origin,
                    key=record.key,
                    headers=[
                        *record.headers,
                        ("dlq_reason", reason(error)[:500].encode(errors="replace")),
                        ("dlq_attempts", str(attempts).encode()),
                        ("dlq_origin", origin.encode()),
                        ("dlq_first_failure", now.isoformat().encode()),
                    ],
                    body=record.value or b"",
                    found_at=now,
                ),
            )
        self._parked.add(origin)
        metrics.DEAD_LETTERS.labels(topic, self._group).inc()
        log.error("record parked", origin=origin, error=reason(error))
        self._fuse.parked()
        if self._fuse.blown:
            raise FuseBlown(self._group)

    async def _commit(self, consumer: AIOKafkaConsumer, settled: Polled, stop: asyncio.Event, *, lane: int) -> None:
        failpoint(f"{self._group}.before_offset_commit")

        async def acknowledge() -> None:
            # Not what the batch ended with: if its partitions have gone to somebody and returned, the group may have
            # come further, and would be behind again until something new arrives. A partition is in one lane's hand,
            # which has settled all that it took.
            await consumer.commit({partition: await consumer.position(partition) for partition in settled})

        try:
            await self._answered(acknowledge(), stop, lane)
        except (CommitFailedError, IllegalStateError) as error:
            # A rebalance took the partitions away in mid-batch; their new owner reads the batch again as duplicates.
            log.info("offsets not committed, the partitions have moved", group=self._group, error=reason(error))

    async def _answered(self, asking: Coroutine[Any, Any, T], stop: asyncio.Event, *lanes: int) -> T:
        """Await what lasts as long as Kafka is away: alive meanwhile, not for ever, and given up soon after `stop`."""
        asked, stopping = asyncio.create_task(asking), asyncio.create_task(stop.wait())
        deadline = time.monotonic() + _ANSWER_SECONDS
        try:
            while not (asked.done() or stopping.done()) and time.monotonic() < deadline:
                self._beat(*lanes)
                beat = min(5, _ANSWER_SECONDS)
                await asyncio.wait({asked, stopping}, timeout=beat, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait({asked}, timeout=_PATIENCE_SECONDS)
            if not asked.done():
                raise Transient("Kafka has not answered")
            if asked.cancelled():  # by aiokafka: our own cancellation would have come out of wait()
                raise Transient("aiokafka has cancelled its own work")
            return asked.result()
        finally:
            stopping.cancel()
            asked.cancel()
            await asyncio.wait({asked})

    def _beat(self, *lanes: int) -> None:
        for lane in lanes or range(LANES):
            self._health.beat(f"consumer {self._group}, lane {lane + 1}", within_seconds=60)

    async def _check(self) -> None:
        if self._fuse.blown:
            raise FuseBlown("consuming has stopped")
        if self._joined is None or not self._joined.assignment():
            raise Permanent("no partitions assigned")
        await self._joined.topics()  # an assignment outlives the broker that gave it


def lane_of(partition: TopicPartition) -> int:
    return partition.partition % LANES


def _origin(record: Record) -> str:
    return f"{record.topic}-{record.partition}-{record.offset}"


def _receive(topic: str, record: Record) -> Received:
    envelope, event = decode(topic, record.headers, record.key, record.value or b"", timestamp_ms=record.timestamp)
    return Received(envelope, event, record, envelope.traceparent)


def decode(
    topic: str, headers: Headers, key: bytes | None, body: bytes, *, timestamp_ms: int
) -> tuple[Envelope, Event]:
    """The event that a record of `topic` is, for every consumer of the house. Raises MalformedEvent."""
    envelope = Envelope.from_headers(headers, key=key, timestamp_ms=timestamp_ms)
    if envelope.type != topic:
        raise MalformedEvent(f"ce_type is not {topic}")
    event = BY_TOPIC[topic].decode(body)
    if event.order_no != envelope.subject:
        raise MalformedEvent("the body's order_no differs from the record's key")
    return envelope, event


async def _pause(stop: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)
