"""The relay as a process of its own: from COMMIT to a record that can be consumed, and how fast a backlog is drained.

All of it under a snapshot from before the beginning, held open: what was deleted stays in the index.
"""

import asyncio
import os
import secrets
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import aiosql
import asyncpg

from orderloop import outbox
from orderloop.settings import KafkaSettings
from orderloop.topics import ORDER_CHANGED
from orderloop_lab import backing
from orderloop_lab.campaigns.outbox_judge import Judge
from orderloop_lab.campaigns.outbox_plan import order_no
from orderloop_lab.home import Home
from orderloop_lab.processes import Supervisor
from orderloop_lab.progress import steps
from orderloop_lab.topics import create_topics
from tests.bench.durability import weaknesses
from tests.bench.harness import Benchmark, Contender, Figure, Measures
from tests.bench.streams import Changes, Process, changes, running
from tests.support.databases import Database, Databases
from tests.support.kafka import settings_for, until

ORDERS = 1000  # each gets its next version again and again
WRITERS = 4  # connections of the open loop
READS = 5  # whose median counts

USUAL, SLOW, DRAIN, CPU, READ = "p50 ms", "p99 ms", "rows/s", "CPU µs/row", "ms/read"
SLOWLY, QUICKLY, BACKLOG, MARKED, FROM_START = "500/s", "5,000/s", "backlog", "from the mark", "from the first id"

FIGURES = (
    Figure(SLOWLY, USUAL, SLOWLY),
    Figure(SLOWLY, SLOW, SLOWLY, None, "≤ 50"),
    Figure(QUICKLY, USUAL, QUICKLY),
    Figure(QUICKLY, SLOW, QUICKLY, None, "≤ 150"),
    Figure(BACKLOG, DRAIN, BACKLOG, None, "1M in ≤ 120 s: ≥ 8,400"),
    Figure(BACKLOG, CPU, BACKLOG),
    Figure(MARKED, READ, MARKED, FROM_START, "flat over the rounds"),
)

_BODY = (
    b'{"order_no":"%s","version":%d,"from":"pending","to":"paid","cause":{"event_id":"wechat:4200%s:paid",'
    b'"type":"payment-notified"},"at":"2026-03-01T12:00:00Z","actor":"payment-callback","amount_fen":9900,'
    b'"channel":"wechat","mchid":"1900000001"}'
)
_COLUMNS = ("order_no", "topic", "event_id", "occurred_at", "body")
_pending: Any = aiosql.from_path(Path(outbox.__file__).with_suffix(".sql"), "asyncpg")


@dataclass(frozen=True, slots=True)
class Scale:
    seconds: float  # of each open loop, per round
    backlog: int  # rows, per round


@asynccontextmanager
async def benchmark(scale: Scale, *, databases: Databases, home: Home) -> AsyncGenerator[Benchmark]:
    bootstrap = await backing.provide(backing.KAFKA, home, Supervisor(home), steps(quiet=True), os.environ)
    kafka = settings_for(bootstrap, f"bench{secrets.token_hex(4)}.")
    await create_topics(bootstrap, kafka.topic_prefix, (ORDER_CHANGED,))
    database = await asyncio.to_thread(databases.clone, "order_core")
    try:
        async with AsyncExitStack() as stack:
            admin, holder = [await _connected(stack, database.admin_url) for _ in range(2)]
            await stack.enter_async_context(holder.transaction(isolation="repeatable_read", readonly=True))
            await holder.fetchval("select count(*) from outbox")
            topic = await stack.enter_async_context(changes(kafka))
            argv = (sys.executable, "-m", "order_core", "relay")
            relay = await stack.enter_async_context(running(home, "bench-relay", argv, database=database, kafka=kafka))
            contest = _Contest(scale, kafka, database, admin, topic, relay)
            await contest.paced(10, 1)  # until it leads
            yield Benchmark("relay", contest.contenders(), FIGURES, contest.faults)
    finally:
        await asyncio.to_thread(databases.drop, [database.name])


async def _connected(stack: AsyncExitStack, url: str) -> asyncpg.Connection:
    conn = await asyncpg.connect(url)
    stack.push_async_callback(conn.close)
    return conn


@dataclass(slots=True)
class _Contest:
    """The contenders' turns, all in one database."""

    scale: Scale
    kafka: KafkaSettings
    database: Database
    admin: asyncpg.Connection
    topic: Changes
    relay: Process
    versions: Counter[str] = field(default_factory=Counter[str])

    def contenders(self) -> Sequence[Contender]:
        return [
            Contender(SLOWLY, lambda _: self.paced(500, 1)),
            Contender(QUICKLY, lambda _: self.paced(5000, 50)),
            Contender(BACKLOG, self.backlog),
            Contender(MARKED, self.marked),
            Contender(FROM_START, self.from_start),
        ]

    def _next(self, count: int) -> Iterator[tuple[str, str, str, datetime, bytes]]:
        """Rows that were never staged before."""
        now = datetime.now(UTC)
        done = self.versions.total()
        for n in range(done, done + count):
            number = order_no(1, n % ORDERS)
            self.versions[number] += 1
            version = self.versions[number]
            key = number.encode()
            yield number, ORDER_CHANGED, f"{number}:{version}", now, _BODY % (key, version, key)

    async def paced(self, rate: int, rows: int) -> Measures:
        """Transactions of so many rows each, at their own times whatever the relay does."""
        committed: dict[bytes, float] = {}
        seen: dict[bytes, float] = {}
        count = int(rate * self.scale.seconds)
        due: asyncio.Queue[list[tuple[str, str, str, datetime, bytes]] | None] = asyncio.Queue()
        async with changes(self.kafka) as news:
            await news.consumer.seek_to_end()
            reading = asyncio.create_task(_arrivals(news, seen, count))
            writing = [asyncio.create_task(self._write(due, committed)) for _ in range(WRITERS)]
            rest = self._next(count)
            began = time.perf_counter()
            for n in range(0, count, rows):
                await asyncio.sleep(max(0.0, began + n / rate - time.perf_counter()))
                due.put_nowait([next(rest) for _ in range(min(rows, count - n))])
            for _ in writing:
                due.put_nowait(None)
            await asyncio.gather(*writing, reading)
        latencies = [(seen[event_id] - at) * 1e3 for event_id, at in committed.items()]
        *_, slow = quantiles(latencies, n=100)
        return {USUAL: median(latencies), SLOW: slow}

    async def _write(
        self, due: "asyncio.Queue[list[tuple[str, str, str, datetime, bytes]] | None]", committed: dict[bytes, float]
    ) -> None:
        conn = await asyncpg.connect(self.database.app_url)
        try:
            while (rows := await due.get()) is not None:
                transaction = conn.transaction()
                await transaction.start()
                await outbox.stage_encoded(conn, [(*fields, None, body) for *fields, body in rows])
                now = time.perf_counter()  # when the commit is asked for: its own time on the disk counts
                committed.update((event_id.encode(), now) for _, _, event_id, *_ in rows)
                await transaction.commit()
        finally:
            await conn.close()

    async def backlog(self, _number: int) -> Measures:
        """Everything committed at once, as after an hour without Kafka."""
        before = await self.topic.count()
        async with self.admin.transaction():
            for start in range(0, self.scale.backlog, 100_000):
                rows = self._next(min(100_000, self.scale.backlog - start))
                await self.admin.copy_records_to_table("outbox", columns=_COLUMNS, records=rows)
            await self.admin.execute("notify outbox")
        spent, began = self.relay.spent(), time.perf_counter()
        await self.topic.until(before + self.scale.backlog)
        seconds = time.perf_counter() - began
        return {
            DRAIN: self.scale.backlog / seconds,
            CPU: (self.relay.spent() - spent) * 1e6 / self.scale.backlog,
        }

    async def marked(self, _number: int) -> Measures:
        last = await self.admin.fetchval("select last_value from outbox_id_seq")
        return await self._read(last - 2 * 2000)  # about where the relay's mark stands

    async def from_start(self, _number: int) -> Measures:
        return await self._read(0)

    async def _read(self, mark: int) -> Measures:
        """What the relay reads with, of an outbox that is empty but for what cannot be removed yet."""
        await until(self._is_empty)  # Kafka has the last rows, they are about to be deleted
        seconds: list[float] = []
        for _ in range(READS):
            began = time.perf_counter()
            _ = [row async for row in _pending.pending(self.admin, mark=mark, held=[], most=2000)]
            seconds.append(time.perf_counter() - began)
        return {READ: median(seconds) * 1e3}

    async def _is_empty(self) -> bool:
        return not await self.admin.fetchval("select exists (select from outbox)")

    async def faults(self) -> list[str]:
        await self.topic.consumer.seek_to_beginning()
        judge = await self.topic.judge(Judge())
        return [*judge.violations(self.versions, most_repeats=0), *await weaknesses(self.admin)][:20]


async def _arrivals(news: Changes, seen: dict[bytes, float], count: int) -> None:
    """Note when each record was first handed to a consumer."""
    while len(seen) < count:
        async with asyncio.timeout(60):
            polled = await news.consumer.getmany(timeout_ms=1000, max_records=5000)
        now = time.perf_counter()
        for records in polled.values():
            for record in records:
                seen.setdefault(dict(record.headers)["ce_id"], now)
