"""The only place that constructs Kafka clients, so that their settings are safe everywhere.

The defaults of the client libraries are not: acks=1 without idempotence loses and doubles, `latest` skips what came
before a group existed, auto-commit acknowledges what was not applied, and the round-robin assignor tears the topics of
one order apart (docs/adr/0002).
"""

import asyncio
import random
from collections.abc import AsyncGenerator, Collection, Coroutine, Sequence
from contextlib import asynccontextmanager
from functools import lru_cache
from typing import Any
from uuid import uuid4

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.conn import AIOKafkaConnection, CloseReason
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.errors import KafkaConnectionError, ProducerClosed
from aiokafka.helpers import create_ssl_context
from aiokafka.partitioner import DefaultPartitioner

from .settings import KafkaSettings

# How long one batch may be retried in place before the consumer polls again to stay a member of its group.
POLL_SECONDS = 300
# What the relay puts into one batch of records: enough for a partition's share of 2,000 rows, and little enough that
# the batches of all partitions are far from the largest request that a broker takes (100 MB).
BATCH_BYTES = 131_072
# How long a client may take to say goodbye to a broker that may be gone.
_CLOSE_SECONDS = 3
_MOST_BYTES = 1_048_576  # what a broker takes by default


_write = AIOKafkaConnection.send


def _send(self: AIOKafkaConnection, request: Any, expect_response: bool = True) -> Any:
    """A connection that a dying broker has just closed is a broken connection under uvloop, too.

    There a write to it raises RuntimeError, which aiokafka takes for a bug: the task that looks after the metadata, or
    the group, ends, and whoever waits for it waits for ever (https://github.com/aio-libs/aiokafka/issues/1038).
    """
    try:
        return _write(self, request, expect_response)
    except RuntimeError as error:
        self.close(CloseReason.CONNECTION_BROKEN)
        raise KafkaConnectionError(f"Connection at {self.host}:{self.port} broken: {error}") from error


AIOKafkaConnection.send = _send


def connection(settings: KafkaSettings) -> dict[str, Any]:
    """What every client of aiokafka has to be told to reach the brokers. Certificates and host names are checked."""
    encrypted = settings.security_protocol in {"SSL", "SASL_SSL"}
    password = settings.sasl_password
    return {
        "bootstrap_servers": settings.bootstrap,
        "security_protocol": settings.security_protocol,
        "ssl_context": create_ssl_context(cafile=settings.ca_file) if encrypted else None,
        "sasl_mechanism": settings.sasl_mechanism,
        "sasl_plain_username": settings.sasl_username,
        "sasl_plain_password": password.get_secret_value() if password else None,
    }


def producer(settings: KafkaSettings, *, client_id: str) -> AIOKafkaProducer:
    """Idempotent and acknowledged by all in-sync replicas: what was awaited is stored once and in order."""
    return AIOKafkaProducer(
        **connection(settings),
        client_id=f"{client_id}-{uuid4().hex[:8]}",
        acks="all",
        enable_idempotence=True,
        request_timeout_ms=15_000,
        max_request_size=_MOST_BYTES,
        max_batch_size=_MOST_BYTES,
    )


def consumer(settings: KafkaSettings, *, group: str, topics: Sequence[str]) -> AIOKafkaConsumer:
    """Commits only when told to, starts at the earliest record, and owns an order's partition in every topic."""
    return AIOKafkaConsumer(
        *(settings.topic_prefix + topic for topic in topics),
        **connection(settings),
        client_id=f"{group}-{uuid4().hex[:8]}",
        group_id=settings.topic_prefix + group,
        group_instance_id=settings.instance_id,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        partition_assignment_strategy=(RangePartitionAssignor,),
        session_timeout_ms=settings.session_seconds * 1000,
        heartbeat_interval_ms=settings.session_seconds * 100,
        max_poll_interval_ms=POLL_SECONDS * 1000,
        isolation_level="read_committed",
    )


async def missing(producer: AIOKafkaProducer, topics: Collection[str]) -> set[str]:
    """Those of the topics that do not exist, or that the broker hides from us. Raises KafkaError."""
    cluster = producer.client.cluster
    unknown = {topic for topic in topics if cluster.partitions_for_topic(topic) is None}
    if not unknown:
        return set()
    there = (await producer.client.fetch_all_metadata()).topics()
    for topic in unknown & there:
        await producer.partitions_for(topic)  # from now on the client keeps track of it
    return unknown - there


def partitions(producer: AIOKafkaProducer, topic: str) -> int:
    """How many a topic has that is not `missing`."""
    return len(producer.client.cluster.partitions_for_topic(topic) or ())


@lru_cache(maxsize=16_384)  # the hash is written in Python, and an order has several events
def _place(key: bytes, count: int) -> int:
    return DefaultPartitioner()(key, range(count), ())


def partition(key: bytes | None, count: int) -> int:
    """The one of `count` partitions that a record belongs into; any without a key."""
    return _place(key, count) if key is not None else random.randrange(count)


@asynccontextmanager
async def producing(producer: AIOKafkaProducer) -> AsyncGenerator[AIOKafkaProducer]:
    """A started producer, closed within seconds whatever happens. What is unacknowledged by then is not waited for.

    Left to itself an idempotent producer never gives up, so that its stop() lasts as long as an outage of Kafka.
    """
    try:
        await producer.start()
        yield producer
    finally:
        producer._message_accumulator.fail_all(ProducerClosed())  # pyright: ignore[reportPrivateUsage]
        if not await _closed(producer.stop()):
            await _closed(producer.client.close())  # stop() does not come this far when the broker is silent


async def leave(consumer: AIOKafkaConsumer) -> None:
    """Leave the group and close, within seconds whatever happens."""
    if await _closed(consumer.stop()):
        return
    for part in (consumer._fetcher, consumer._client):  # pyright: ignore[reportPrivateUsage]
        if part is not None:  # cut short, stop() has left these as they were
            await _closed(part.close())


async def _closed(closing: Coroutine[Any, Any, None]) -> bool:
    """Whether it came to its end in time and without an error.

    In a task of its own: aiokafka awaits tasks that it has just cancelled, and what comes of that must not be taken
    for our own cancellation, which would end the service.
    """
    task = asyncio.create_task(closing)
    try:
        await asyncio.wait({task}, timeout=_CLOSE_SECONDS)
    finally:
        task.cancel()
    await asyncio.wait({task})
    return not task.cancelled() and task.exception() is None
