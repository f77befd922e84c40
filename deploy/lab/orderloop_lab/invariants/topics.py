"""What the topics say: each is read once, from its beginning."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import GroupCoordinatorNotAvailableError, GroupLoadInProgressError, NotCoordinatorForGroupError
from aiokafka.structs import OffsetAndMetadata

from orderloop.envelope import Envelope
from orderloop.errors import MalformedEvent
from orderloop.events import BY_TOPIC
from orderloop.topics import ALL, GROUPS, ORDER_CHANGED, dead_letters
from orderloop_lab.errors import LabError

Record = ConsumerRecord[bytes | None, bytes | None]
Offsets = Mapping[TopicPartition, int]

GROUP = "order-core"
INBOUND = GROUPS[GROUP]
_DEAD_LETTERS = tuple(dead_letters(topic, GROUP) for topic in INBOUND)
_OTHERS = tuple(topic for topic in ALL if topic not in INBOUND)  # order-changed, and what order-core asks for
_STALLED_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Broker:
    bootstrap: str
    prefix: str = ""


@dataclass(frozen=True, slots=True)
class Look:
    """How far everything was at one moment."""

    begins: Offsets
    ends: Offsets
    committed: Offsets  # of order-core's group

    @property
    def lost(self) -> str:
        """A partition whose first records the broker no longer has; empty where nothing is lost."""
        headless = sorted((one.topic, one.partition, begin) for one, begin in self.begins.items() if begin)
        return "{}-{} begins at {}".format(*headless[0]) if headless else ""


@dataclass(slots=True)
class Copies:
    """What was published under one id, however often."""

    taken: bool = False  # a copy lies below the group's committed offsets
    alive: bool = False  # a copy was not dead-lettered


@dataclass(slots=True)
class Testimony:
    """Keys are `{order_no} {event id}`, so that they can stand in a sentence."""

    inbound: dict[str, Copies] = field(default_factory=dict[str, Copies])
    undecodable: list[str] = field(default_factory=list[str])  # topic-partition-offset, taken and not dead-lettered
    dead: set[str] = field(default_factory=set[str])  # topic-partition-offset of every dead letter
    requested: set[str] = field(default_factory=set[str])  # of other services, by order-core
    changes: dict[str, str] = field(default_factory=dict[str, str])  # `{order_no}:{version}` -> what it says
    settled: set[str] = field(default_factory=set[str])  # those changes that were published before the snapshots
    odd: list[str] = field(default_factory=list[str])  # sentences about records that contradict each other
    disorder: list[str] = field(default_factory=list[str])  # sentences
    latest: dict[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])  # partition, version


def said(before: str | None, after: str, cause: str) -> str:
    """What a change is about, comparable between the log, the outbox and the topic."""
    return f"{before or 'nothing'} → {after} by {cause}"


async def look(broker: Broker) -> Look:
    """Reads the committed offsets before the ends, as a consumer may commit in between."""
    admin = AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap)
    await admin.start()
    try:
        offsets = await _committed(admin, broker.prefix + GROUP)
        wanted = {broker.prefix + topic for topic in (*INBOUND, *_DEAD_LETTERS, *_OTHERS)}
        there = sorted(wanted & set(await admin.list_topics()))  # asking for an absent one would create it
        if broker.prefix + ORDER_CHANGED not in there:
            raise LabError(
                f"Kafka at {broker.bootstrap} has no topic {broker.prefix}{ORDER_CHANGED}: is the prefix right?"
            )
        described = await admin.describe_topics(there)
    finally:
        await admin.close()
    partitions = [TopicPartition(one["topic"], part["partition"]) for one in described for part in one["partitions"]]
    async with _reader(broker) as consumer:
        consumer.assign(partitions)  # learns of all topics at once; otherwise each is asked about by itself
        consumer.pause(*partitions)
        begins = await consumer.beginning_offsets(partitions)
        ends = await consumer.end_offsets(partitions)
    return Look(begins, ends, {partition: said.offset for partition, said in offsets.items()})


async def _committed(admin: AIOKafkaAdminClient, group: str) -> Mapping[TopicPartition, OffsetAndMetadata]:
    deadline = time.monotonic() + _STALLED_SECONDS
    while True:
        try:
            return await admin.list_consumer_group_offsets(group)
        except (GroupCoordinatorNotAvailableError, GroupLoadInProgressError, NotCoordinatorForGroupError) as error:
            # a broker that has just started, or has never had a group before
            if time.monotonic() > deadline:
                raise LabError(f"Kafka cannot say how far {group} is: {error}") from error
            await asyncio.sleep(0.2)


async def read(broker: Broker, first: Look, last: Look, dead: set[str]) -> Testimony:
    """Everything up to `last`, of which nothing may be lost. `dead`: letters still in the outbox."""
    testimony = Testimony(dead=dead)
    prefix = len(broker.prefix)
    async with _reader(broker) as consumer:
        # the dead letters first: they tell which inbound records live
        for names in (_DEAD_LETTERS, (*INBOUND, *_OTHERS)):
            ends = {partition: end for partition, end in last.ends.items() if partition.topic[prefix:] in names}
            async for record in _records(consumer, ends):
                where = TopicPartition(record.topic, record.partition)
                topic = record.topic[prefix:]
                if topic in _DEAD_LETTERS:
                    testimony.dead |= {value.decode() for name, value in record.headers if name == "dlq_origin"}
                elif topic in INBOUND:
                    _take_in(testimony, topic, record, taken=record.offset < first.committed.get(where, 0))
                elif topic == ORDER_CHANGED:
                    _follow(testimony, record, settled=record.offset < first.ends.get(where, 0))
                else:
                    key = _key(topic, record)
                    testimony.requested |= {key} if key else set()
    return testimony


def _take_in(testimony: Testimony, topic: str, record: Record, *, taken: bool) -> None:
    origin = f"{record.topic}-{record.partition}-{record.offset}"
    key, alive = _key(topic, record), origin not in testimony.dead
    if key is None:
        if taken and alive:
            testimony.undecodable.append(origin)
        return
    copies = testimony.inbound.setdefault(key, Copies())
    # a record that is dead-lettered is accounted for by its origin, whatever became of other copies
    copies.taken |= taken and alive
    copies.alive |= alive


def _key(topic: str, record: Record) -> str | None:
    """None for what no consumer can decode."""
    try:
        envelope = Envelope.from_headers(record.headers, key=record.key, timestamp_ms=record.timestamp)
        event = BY_TOPIC[topic].decode(record.value or b"")
    except MalformedEvent:
        return None
    fits = envelope.type == topic and event.order_no == envelope.subject
    return f"{envelope.subject} {envelope.event_id}" if fits else None


def _follow(testimony: Testimony, record: Record, *, settled: bool) -> None:
    """One order-changed. A repeat that says the same is a redelivery, wherever it stands."""
    where = f"{record.topic}-{record.partition}-{record.offset}"
    key = _key(ORDER_CHANGED, record)
    if key is None:
        testimony.odd.append(f"{where} is no order-changed that anybody could read")
        return
    order_no, event_id = key.split(" ", 1)
    change, what = change_of(record.value or b"")
    if event_id != change:
        testimony.odd.append(f"order {order_no}: {change} was published under the id {event_id} too, at {where}")
        return
    known = testimony.changes.setdefault(change, what)
    if known is not what:
        if known != what:
            testimony.odd.append(f"order {order_no}: {change} says “{known}” and, at {where}, “{what}”")
        return
    if settled:
        testimony.settled.add(change)
    version = int(change.rpartition(":")[2])
    partition, latest = testimony.latest.get(order_no, (record.partition, 0))
    if partition != record.partition:
        testimony.disorder.append(f"order {order_no}: its changes lie in partitions {partition} and {record.partition}")
    elif version < latest:
        testimony.disorder.append(f"order {order_no}: version {version} was published after version {latest}")
    testimony.latest[order_no] = (partition, max(version, latest))


def change_of(body: bytes) -> tuple[str, str]:
    """`{order_no}:{version}` of an order-changed, and what it says."""
    change = json.loads(body)
    what = said(change["from"], change["to"], change["cause"]["event_id"])
    return f"{change['order_no']}:{change['version']}", what


@asynccontextmanager
async def _reader(broker: Broker) -> AsyncGenerator[AIOKafkaConsumer]:
    consumer = AIOKafkaConsumer(
        bootstrap_servers=broker.bootstrap,
        group_id=None,  # it belongs to nobody and commits nothing
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
    )
    await consumer.start()
    await asyncio.sleep(0)  # aiokafka 0.14: stopped before its own task has begun, it cancels whoever stops it
    try:
        yield consumer
    finally:
        await consumer.stop()


async def _records(consumer: AIOKafkaConsumer, ends: Offsets) -> AsyncGenerator[Record]:
    """Every record below `ends`, each partition in its order."""
    left = {partition for partition, end in ends.items() if end > 0}
    if not left:
        return
    consumer.assign(left)
    for partition in left:
        consumer.seek(partition, 0)
    heard = time.monotonic()
    while left:
        polled = await consumer.getmany(timeout_ms=500, max_records=5000)
        if polled:
            heard = time.monotonic()
        elif time.monotonic() - heard > _STALLED_SECONDS:
            names = ", ".join(sorted(f"{partition.topic}-{partition.partition}" for partition in left))
            raise LabError(f"Kafka has shown nothing of {names} for {_STALLED_SECONDS:.0f} s: look at its log.")
        for partition, records in polled.items():
            for record in records:
                if record.offset < ends[partition]:
                    yield record
        # the position, as the last offsets may be a transaction's marks, which nobody is shown
        done = [one for one in left if await consumer.position(one) >= ends[one]]
        left.difference_update(done)
        consumer.pause(*done)
