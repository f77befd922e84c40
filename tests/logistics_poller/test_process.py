"""logistics-poller as it really runs: from Kafka through warehouse and couriers back into Kafka, and killed between."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from orderloop import kafka, topics
from orderloop.envelope import Envelope
from orderloop.events import BY_TOPIC
from orderloop.settings import KafkaSettings
from orderloop_lab.backing import Backing
from tests.support.databases import Database
from tests.support.logistics import (
    TRACEPARENT,
    Outside,
    ServiceProcess,
    new_order,
    outside_world,
    shipment_requested,
)

FACTOR = 36_000  # ten hours of a parcel's life in a second
TOLD = (topics.WAYBILL_CREATED, topics.PICKUP_DETECTED, topics.PARCEL_TRACKED, topics.ANOMALY_RAISED)

CreateTopics = Callable[..., Awaitable[None]]


async def publish(settings: KafkaSettings, order_no: str) -> None:
    event = shipment_requested(order_no)
    now = datetime.now(UTC)
    envelope = Envelope(f"{event.shipment_id}:requested", "/order-core", event.TOPIC, now, order_no, TRACEPARENT)
    async with kafka.producer(settings, client_id="test") as producer:
        for _ in range(2):  # Kafka delivers at least once
            await producer.send_and_wait(
                settings.topic_prefix + event.TOPIC, event.encode(), key=order_no.encode(), headers=envelope.headers()
            )


async def told_until_delivered(settings: KafkaSettings, order_no: str) -> list[tuple[Envelope, Any]]:
    """Everything published about an order until its parcel is delivered."""
    told: list[tuple[Envelope, Any]] = []
    async with (
        asyncio.timeout(60),
        kafka.consumer(settings, group=f"test-{order_no}", topics=TOLD) as consumer,
    ):
        while not any(getattr(event, "status", None) == "delivered" for _, event in told):
            for records in (await consumer.getmany(timeout_ms=200)).values():
                for record in records:
                    envelope = Envelope.from_headers(record.headers, key=record.key, timestamp_ms=record.timestamp)
                    told.append((envelope, BY_TOPIC[envelope.type].decode(record.value or b"")))
    return told


def service(db: Database, backing: Backing, outside: Outside, prefix: str, **environ: str) -> ServiceProcess:
    return ServiceProcess(
        db,
        ORDERLOOP_KAFKA_BOOTSTRAP=backing.kafka_bootstrap,
        ORDERLOOP_KAFKA_TOPIC_PREFIX=prefix,
        ORDERLOOP_KAFKA_INSTANCE_ID="poller-0",  # a restarted member need not wait for its predecessor's session
        ORDERLOOP_REDIS_URL=backing.redis_url,
        ORDERLOOP_LOGISTICS_TIME_FACTOR=str(FACTOR),
        ORDERLOOP_LOGISTICS_IDLE_SECONDS="0.1",
        **outside.settings(),
        **environ,
    )


async def test_a_requested_shipment_is_shipped_once_picked_up_and_delivered(
    db: Database, backing: Backing, topic_prefix: str, create_topics: CreateTopics, tmp_path: Path
) -> None:
    await create_topics(topic_prefix)
    settings = KafkaSettings(bootstrap=backing.kafka_bootstrap, topic_prefix=topic_prefix)
    order_no = new_order()
    with outside_world(tmp_path, time_factor=FACTOR) as outside:
        poller = service(db, backing, outside, topic_prefix)
        try:
            await poller.start()
            await publish(settings, order_no)
            told = await told_until_delivered(settings, order_no)
            assert await poller.stop() == 0
        finally:
            poller.kill()

        assert outside.active_shipments(order_no) == [f"{order_no}_S1"]
        assert outside.calls(order_no) == [200]
    ids = [envelope.event_id for envelope, _ in told]
    assert len(ids) == len(set(ids))
    assert sum(one.startswith(f"{order_no}_S1:waybill:") for one in ids) == 1
    assert sum(one.endswith(":picked_up") for one in ids) == 1
    assert {(envelope.traceparent or "")[3:35] for envelope, _ in told} == {TRACEPARENT[3:35]}
    assert not [event for _, event in told if hasattr(event, "kind")]


async def test_killed_while_it_records_a_poll_it_tells_of_the_pickup_once(
    db: Database, backing: Backing, topic_prefix: str, create_topics: CreateTopics, tmp_path: Path
) -> None:
    await create_topics(topic_prefix)
    settings = KafkaSettings(bootstrap=backing.kafka_bootstrap, topic_prefix=topic_prefix)
    order_no = new_order()
    with outside_world(tmp_path, time_factor=FACTOR) as outside:
        poller = service(db, backing, outside, topic_prefix)
        try:
            await poller.start(FAILPOINT="logistics-poller.before_poll_commit:kill@2")
            await publish(settings, order_no)
            assert await poller.killed_by_itself()
            await poller.start(FAILPOINT="")
            told = await told_until_delivered(settings, order_no)
        finally:
            poller.kill()
        assert outside.active_shipments(order_no) == [f"{order_no}_S1"]
        assert outside.calls(order_no) == [200]
    assert sum(envelope.event_id.endswith(":picked_up") for envelope, _ in told) == 1
