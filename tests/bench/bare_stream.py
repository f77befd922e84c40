"""`python -m tests.bench.bare_stream core|relay`: all that order-core and its relay ask of PostgreSQL and Kafka.

core: as many records as order-core takes at once, then the statements of a batch with arguments that were written down
beforehand, then the offsets. relay: the relay's own statements and the same calls of the producer, and no care for
failures. Neither decodes, decides, measures or logs anything.
"""

import asyncio
import pickle
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiosql
import asyncpg
import uvloop
from aiokafka import TopicPartition

from orderloop import kafka, outbox
from orderloop.postgres import SESSION
from orderloop.settings import KafkaSettings, PostgresSettings
from orderloop.topics import GROUPS, ORDER_CHANGED, PARTITIONS

Statements = Sequence[tuple[str, tuple[Any, ...]]]  # of one batch

BATCH = 500
_MOST_ROWS = 2000
_sql: Any = aiosql.from_path(Path(outbox.__file__).with_suffix(".sql"), "asyncpg")


async def core(batches: Sequence[Statements]) -> None:
    conn = await _connected()
    settings = KafkaSettings()  # type: ignore[call-arg]
    consumer = kafka.consumer(settings, group="bare", topics=GROUPS["order-core"])
    await consumer.start()
    offsets: dict[TopicPartition, int] = {}
    polled = 0
    for statements in batches:
        while polled < BATCH:
            for partition, records in (await consumer.getmany(timeout_ms=500, max_records=BATCH - polled)).items():
                polled += len(records)
                offsets[partition] = records[-1].offset + 1
        async with conn.transaction():
            for statement, arguments in statements:
                await conn.fetch(statement, *arguments)
        await consumer.commit(offsets)
        offsets, polled = {}, 0
    await asyncio.Event().wait()


async def relay() -> None:
    conn = await _connected()
    await conn.execute("set synchronous_commit = off; set enable_sort = off")
    woken = asyncio.Event()
    await conn.add_listener("outbox", lambda *_: woken.set())
    settings = KafkaSettings()  # type: ignore[call-arg]
    producer = kafka.producer(settings, client_id="bare")
    await producer.start()
    topic = settings.topic_prefix + ORDER_CHANGED
    mark = 0
    while True:
        woken.clear()
        rows = [row async for row in _sql.pending(conn, mark=mark, held=[], most=_MOST_ROWS)]
        if not rows:
            await woken.wait()
            continue
        batches = defaultdict[int, Any](producer.create_batch)
        for row in rows:
            key, headers = row["order_no"].encode(), [("ce_id", row["event_id"].encode()), *_HEADERS]
            batches[kafka.partition(key, PARTITIONS)].append(
                timestamp=None, key=key, value=row["body"], headers=headers
            )
        sent = [await producer.send_batch(batch, topic, partition=n) for n, batch in batches.items()]
        await asyncio.gather(*sent)
        await _sql.published(conn, ids=[row["id"] for row in rows])
        mark = rows[-1]["id"]


# As many bytes as the relay's.
_HEADERS = [
    ("ce_specversion", b"1.0"),
    ("ce_source", b"/order-core"),
    ("ce_type", ORDER_CHANGED.encode()),
    ("ce_time", b"2026-03-01T12:00:00.000000+00:00"),
    ("ce_subject", b"260301120000000000000000"),
    ("content-type", b"application/json"),
]


async def _connected() -> asyncpg.Connection:
    url = PostgresSettings().url.get_secret_value()  # type: ignore[call-arg]
    return await asyncpg.connect(url, server_settings=SESSION)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        if sys.argv[1] == "core":
            runner.run(core(pickle.loads(Path(sys.argv[2]).read_bytes())))  # noqa: S301 # our own file
        else:
            runner.run(relay())
