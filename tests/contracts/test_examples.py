"""The programs for other systems do what they say, against a real broker. Java's where a JDK is installed."""

import asyncio
import json
import os
import shlex
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
from orderloop_lab.cache import cache_folder
from orderloop_lab.progress import steps
from tests.contracts.test_events import golden
from tests.support.contract import Record, faults
from tests.support.kafka import outgoing, produce, read_all, settings_for

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
# A JDK runs a source file; a bare JRE has no compiler. The jars are those that the lab's broker is made of.
LANGUAGES = ["python", *(["java"] if shutil.which("javac") else [])]


@pytest.fixture(params=LANGUAGES)
def language(request: pytest.FixtureRequest) -> str:
    return request.param


def _as_the_page_says(language: str, bootstrap: str) -> str:
    """The README's command, letter by letter but for the address and for whose Python it is."""
    lines = (EXAMPLES / "README.md").read_text(encoding="utf-8").splitlines()
    [line] = [line for line in lines if line.endswith(" 127.0.0.1:PORT") and f" examples/{language}/" in line]
    return line.replace("127.0.0.1:PORT", bootstrap).replace(".venv/bin/python", shlex.quote(sys.executable))


def _producer(language: str, *arguments: str) -> str:
    """With Kafka's client and what it needs, and no other jar."""
    if language == "python":
        return shlex.join([sys.executable, str(EXAMPLES / "python/produce.py"), *arguments])
    folder = Path(class_path(steps(quiet=True))).parent
    jars = [next(folder.glob(f"{artifact}-[0-9]*.jar")) for artifact in ("kafka-clients", "slf4j-api")]
    path = os.pathsep.join(map(str, jars))
    return shlex.join(["java", "-cp", path, str(EXAMPLES / "java/Produce.java"), *arguments])


@pytest.fixture
def home(tmp_path: Path, language: str) -> Path:
    """A home whose cache is the one that this machine's labs use, wherever that is."""
    if language == "java":
        class_path(steps(quiet=True))  # there, whosever broker this is
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache/orderloop").symlink_to(cache_folder())
    return tmp_path


@asynccontextmanager
async def _running(command: str, home: Path, prefix: str) -> AsyncIterator[Process]:
    environment = {"PATH": os.environ["PATH"], "PREFIX": prefix, "HOME": str(home)}
    process = await asyncio.create_subprocess_shell(
        f"exec {command}", cwd=ROOT, env=environment, stdout=PIPE, stderr=DEVNULL
    )
    try:
        async with asyncio.timeout(60):
            yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_a_foreign_consumer_reads_every_change_and_a_foreign_producer_is_understood(
    language: str,
    home: Path,
    kafka_bootstrap: str,
    topic_prefix: str,
    create_topics: Callable[..., Awaitable[None]],
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

    async with _running(_as_the_page_says(language, kafka_bootstrap), home, topic_prefix) as consumer:
        assert consumer.stdout is not None
        read = [(await consumer.stdout.readline()).decode() for _ in changes]
        async with _running(_producer(language, kafka_bootstrap, order_no, "7312"), home, topic_prefix) as producer:
            assert await producer.wait() == 0

    assert all(line.startswith(order_no) for line in read)
    [record] = await read_all(settings, WaybillCreated.TOPIC)
    envelope = Envelope.from_headers(record.headers, key=record.key, timestamp_ms=record.timestamp)
    body = WaybillCreated.decode(record.value or b"")
    assert faults(Record(WaybillCreated.TOPIC, record.key, record.headers, record.value or b"")) == []
    assert (envelope.type, envelope.event_id) == (WaybillCreated.TOPIC, "/my-wms#label:7312")
    assert (body.order_no, body.waybill_no, body.parcel_count) == (order_no, "7312", 1)
    # where the house's own events of the order are, so that one worker owns them all
    assert record.partition == (murmur2(order_no.encode()) & 0x7FFFFFFF) % PARTITIONS
