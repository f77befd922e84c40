"""What benchmarks need of a real broker: a process beside PostgreSQL and Kafka, and what its topic came to hold."""

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from aiokafka import AIOKafkaConsumer, TopicPartition

from orderloop.settings import KafkaSettings
from orderloop.topics import ORDER_CHANGED, PARTITIONS
from orderloop_lab.campaigns.outbox_judge import Judge
from orderloop_lab.home import Home
from orderloop_lab.processes import Command, Supervisor
from tests.support.databases import Database

ROOT = Path(__file__).parents[2]
_LOOK_SECONDS = 0.02
_SILENCE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Process:
    """One that runs beside the benchmark."""

    name: str
    process: psutil.Process

    def spent(self) -> float:
        """CPU-seconds since its beginning."""
        times = self.process.cpu_times()
        return times.user + times.system


@asynccontextmanager
async def running(
    home: Home, name: str, argv: Sequence[str], *, database: Database, kafka: KafkaSettings, env: Mapping[str, str] = {}
) -> AsyncGenerator[Process]:
    supervisor = Supervisor(home)
    given = {
        "PYTHONPATH": str(ROOT),
        "ORDERLOOP_POSTGRES_URL": database.app_url,
        "ORDERLOOP_KAFKA_BOOTSTRAP": kafka.bootstrap,
        "ORDERLOOP_KAFKA_TOPIC_PREFIX": kafka.topic_prefix,
        "ORDERLOOP_LOG_LEVEL": "WARNING",
        **env,
    }
    folder = str(home.folder / "bench" / name)
    url = f"http://127.0.0.1:{given['ORDERLOOP_HTTP_PORT']}/livez" if "ORDERLOOP_HTTP_PORT" in given else ""
    try:
        await supervisor.start(Command(name=name, argv=tuple(argv), folder=folder, url=url, layer=1, env=given))
        [pid] = [status.pid for status in supervisor.status() if status.name == name]
        yield Process(name, psutil.Process(pid))
    finally:
        await supervisor.stop(name)


@asynccontextmanager
async def changes(kafka: KafkaSettings) -> AsyncGenerator["Changes"]:
    """The topic of order-changed, from its beginning."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=kafka.bootstrap, group_id=None, enable_auto_commit=False, auto_offset_reset="earliest"
    )
    await consumer.start()
    try:
        consumer.assign([TopicPartition(kafka.topic_prefix + ORDER_CHANGED, n) for n in range(PARTITIONS)])
        await consumer.seek_to_beginning()
        yield Changes(consumer)
    finally:
        await consumer.stop()


@dataclass(frozen=True, slots=True)
class Changes:
    consumer: AIOKafkaConsumer

    async def count(self) -> int:
        """How many records are there."""
        return sum((await self.consumer.end_offsets(self.consumer.assignment())).values())

    async def until(self, count: int) -> None:
        """Until so many are there. Raises TimeoutError when nothing comes any more."""
        seen, heard = await self.count(), time.monotonic()
        while seen < count:
            await asyncio.sleep(_LOOK_SECONDS)
            last, seen = seen, await self.count()
            heard = time.monotonic() if seen > last else heard
            if time.monotonic() - heard > _SILENCE_SECONDS:
                raise TimeoutError(f"{seen} of {count} changes were published, and no more come")

    async def judge(self, judge: Judge) -> Judge:
        """Have it follow every record, from the consumer's position on."""
        left = await self.count() - sum([await self.consumer.position(one) for one in self.consumer.assignment()])
        while left > 0:
            async with asyncio.timeout(_SILENCE_SECONDS):
                polled = await self.consumer.getmany(timeout_ms=1000, max_records=5000)
            for records in polled.values():
                left -= len(records)
                for record in records:
                    judge.follow(record)
        return judge
