"""The programs for other systems do what they say, against a real broker. Java's where a JDK is installed."""

import asyncio
import json
import os
import shutil
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from aiokafka.partitioner import murmur2

from orderloop.envelope import Envelope
from orderloop.events import OrderChanged, WaybillCreated
from orderloop.ids import new_order_no
from orderloop.topics import PARTITIONS
from orderloop_lab.backing.jars import class_path
from orderloop_lab.progress import steps
from tests.contracts.test_events import golden
from tests.support.kafka import outgoing, produce, read_all, settings_for

EXAMPLES = Path(__file__).parents[2] / "examples"
# A JDK runs a source file; a bare JRE has no compiler. The jars are those that the lab's broker is made of.
LANGUAGES = ["python", *(["java"] if shutil.which("javac") else [])]


@pytest.fixture(params=LANGUAGES)
def language(request: pytest.FixtureRequest) -> str:
    return request.param


def _program(language: str, name: str) -> list[str]:
    if language == "python":
        return [sys.executable, str(EXAMPLES / "python" / f"{name}.py")]
    folder = Path(class_path(steps(quiet=True))).parent
    jars = [next(folder.glob(f"{artifact}-[0-9]*.jar")) for artifact in ("kafka-clients", "slf4j-api")]
    return ["java", "-cp", os.pathsep.join(map(str, jars)), str(EXAMPLES / "java" / f"{name.capitalize()}.java")]


@asynccontextmanager
async def _running(program: list[str], *arguments: str, prefix: str) -> AsyncIterator[Process]:
    environment = {"PATH": os.environ["PATH"], "PREFIX": prefix}
    process = await asyncio.create_subprocess_exec(*program, *arguments, env=environment, stdout=PIPE, stderr=DEVNULL)
    try:
        async with asyncio.timeout(60):
            yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_a_foreign_consumer_reads_every_change_and_a_foreign_producer_is_understood(
    language: str, kafka_bootstrap: str, topic_prefix: str, create_topics: Callable[..., Awaitable[None]]
) -> None:
    await create_topics(topic_prefix, (OrderChanged.TOPIC, WaybillCreated.TOPIC))
    settings = settings_for(kafka_bootstrap, topic_prefix)
    order_no = new_order_no(datetime.now(UTC))
    changes = [
        OrderChanged.decode(
            json.dumps(golden(OrderChanged.TOPIC) | {"order_no": order_no, "version": version}).encode()
        )
        for version in (1, 2, 3)
    ]
    await produce(settings, [outgoing(change, f"{order_no}:{change.version}") for change in changes])

    async with _running(_program(language, "consume"), kafka_bootstrap, prefix=topic_prefix) as consumer:
        assert consumer.stdout is not None
        read = [(await consumer.stdout.readline()).decode() for _ in changes]
        said = _program(language, "produce")
        async with _running(said, kafka_bootstrap, order_no, "7312", prefix=topic_prefix) as producer:
            assert await producer.wait() == 0

    assert all(line.startswith(order_no) for line in read)
    [record] = await read_all(settings, WaybillCreated.TOPIC)
    envelope = Envelope.from_headers(record.headers, key=record.key, received_at=datetime.now(UTC))
    body = WaybillCreated.decode(record.value or b"")
    assert (envelope.type, envelope.event_id) == (WaybillCreated.TOPIC, "/my-wms#label:7312")
    assert (body.order_no, body.waybill_no, body.parcel_count) == (order_no, "7312", 1)
    # where the house's own events of the order are, so that one worker owns them all
    assert record.partition == (murmur2(order_no.encode()) & 0x7FFFFFFF) % PARTITIONS
