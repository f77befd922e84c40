"""Records as other services would send them, and what stands in a topic."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

from orderloop import kafka
from orderloop.consume import Received
from orderloop.envelope import Envelope
from orderloop.events import Event, ParcelStatus, ParcelTracked
from orderloop.settings import KafkaSettings
from orderloop.topics import PARTITIONS

AT = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A record before it is sent; any part of it may be wrong."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]] = ()
    at: datetime | None = None  # the record's own timestamp; None: when it is sent


def settings_for(bootstrap: str, prefix: str) -> KafkaSettings:
    return KafkaSettings.model_validate({"bootstrap": bootstrap, "topic_prefix": prefix})


def tracked(order_no: str, *, text: str = "parcel sorted") -> ParcelTracked:
    """Any event, for tests that do not care which."""
    return ParcelTracked(
        order_no=order_no,
        express_code="zto",
        waybill_no="75312345678901",
        status=ParcelStatus.IN_TRANSIT,
        at=AT,
        text=text,
    )


def envelope_of(
    event: Event, event_id: str, *, source: str = "/logistics-poller", trace: str | None = None
) -> Envelope:
    return Envelope(event_id, source, event.TOPIC, AT, event.order_no, trace)


def outgoing(event: Event, event_id: str, *, source: str = "/logistics-poller", trace: str | None = None) -> Outgoing:
    headers = envelope_of(event, event_id, source=source, trace=trace).headers()
    return Outgoing(event.TOPIC, event.order_no.encode(), event.encode(), headers)


def received(event: Event, event_id: str, *, source: str = "/logistics-poller", trace: str | None = None) -> Received:
    """What a handler gets, without a broker."""
    envelope = envelope_of(event, event_id, source=source, trace=trace)
    body = event.encode()
    record = ConsumerRecord(
        topic=event.TOPIC,
        partition=0,
        offset=0,
        timestamp=int(AT.timestamp() * 1000),
        timestamp_type=0,
        key=event.order_no.encode(),
        value=body,
        checksum=None,
        serialized_key_size=len(event.order_no),
        serialized_value_size=len(body),
        headers=envelope.headers(),
    )
    return Received(envelope, event, record, trace)


async def produce(settings: KafkaSettings, records: Sequence[Outgoing]) -> None:
    async with kafka.producing(kafka.producer(settings, client_id="test")) as producer:
        await asyncio.gather(
            *[
                await producer.send(
                    settings.topic_prefix + one.topic,
                    one.value,
                    key=one.key,
                    headers=list(one.headers),
                    timestamp_ms=int(one.at.timestamp() * 1000) if one.at else None,
                )
                for one in records
            ]
        )


async def read_all(settings: KafkaSettings, topic: str) -> list[ConsumerRecord[bytes | None, bytes | None]]:
    """Every record that stands in the topic now, a partition's in their order."""
    consumer = AIOKafkaConsumer(bootstrap_servers=settings.bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    try:
        name = settings.topic_prefix + topic
        partitions = [TopicPartition(name, n) for n in range(PARTITIONS)]
        consumer.assign(partitions)
        ends = await consumer.end_offsets(partitions)
        await consumer.seek_to_beginning(*partitions)
        records: list[ConsumerRecord[bytes | None, bytes | None]] = []
        async with asyncio.timeout(30):
            while any([await consumer.position(one) < ends[one] for one in partitions]):
                for some in (await consumer.getmany(timeout_ms=200)).values():
                    records += some
        return records
    finally:
        await kafka.leave(consumer)


async def committed(settings: KafkaSettings, group: str, topic: str) -> int:
    """How many records of the topic the group has acknowledged."""
    consumer = AIOKafkaConsumer(bootstrap_servers=settings.bootstrap, group_id=settings.topic_prefix + group)
    await consumer.start()
    try:
        partitions = [TopicPartition(settings.topic_prefix + topic, n) for n in range(PARTITIONS)]
        return sum([await consumer.committed(one) or 0 for one in partitions])
    finally:
        await kafka.leave(consumer)


async def until(condition: Callable[[], bool | Awaitable[bool]], *, seconds: float = 30) -> None:
    """Wait for a condition, not for time to pass."""
    async with asyncio.timeout(seconds):
        while True:
            outcome = condition()
            if outcome if isinstance(outcome, bool) else await outcome:
                return
            await asyncio.sleep(0.02)  # between two looks
