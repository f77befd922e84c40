"""order-core's write path: from the bytes of Kafka's records to the COMMIT, beside two references.

pgbench: the same SQL without Python (what the database allows one client): the same transactions, one after the other.
order-core has several under way, a lane each, so that it may well be the faster one. One by one: the same code with
batches of one event (what batching is worth). Traced: events of a tracing producer, of which none, one in a hundred, or
each is sampled; the spans are made and then dropped.
"""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import aiosql
import asyncpg
import orjson
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from order_core import consumers, parts, store
from order_core.apply import apply
from orderloop import inbox, outbox, postgres, tracing
from orderloop.clock import SystemClock
from orderloop.consume import LANES, Consumer, Handler, Received, lane_of
from orderloop.health import Health
from orderloop.settings import KafkaSettings, PostgresSettings
from orderloop.topics import ORDER_CHANGED
from orderloop_lab import databases as lab
from orderloop_lab.invariants import World, check
from tests.bench import orders, pgbench
from tests.bench.durability import weaknesses
from tests.bench.harness import Benchmark, Contender, Figure, Measures
from tests.bench.orders import Polled, Sent
from tests.support.databases import Database, Databases

BATCH = 500  # events of a transaction; a poll under lag returns as many for each lane
_WARM_UP = LANES  # polls of every slice that are not counted: statements are prepared, connections warm
MOST_SINGLES = 300  # per round: one by one is so slow that fewer events have to do

SPEED, CPU, WAL = "events/s", "CPU µs/event", "WAL bytes/event"
OURS, PGBENCH, SINGLY, SCATTERED = "order-core", "pgbench", "one by one", "any orders"
TRACED = {"traced, 0 %": 0.0, "traced, 1 %": 0.01, "traced, all": 1.0}  # share of sampled events
PARSED = "parsed"  # bodies through orjson and nothing else: 1 µs on the machine that the targets were set on

_FIGURES = (
    Figure(OURS, SPEED, OURS, SINGLY, gate=10),
    Figure(SCATTERED, SPEED, SCATTERED, OURS),
    Figure(OURS, CPU, OURS, PARSED, "≤ 20 (µs, at 1)"),
    *(Figure(name, CPU, name, OURS) for name in TRACED),
    Figure(OURS, WAL, OURS, PGBENCH, "≤ 2,048 bytes"),
    Figure(SCATTERED, WAL, SCATTERED, OURS),
)


@dataclass(frozen=True, slots=True)
class Workload:
    name: str
    events: Callable[..., list[Sent]]
    per_order: int
    figures: Sequence[Figure]


PAYMENTS = Workload(
    "order-core, payments", orders.payments, 1, (Figure(OURS, SPEED, OURS, PGBENCH, gate=0.75), *_FIGURES)
)
# Not a gate: a scan's SQL costs half of a payment's, so the Python beside it weighs twice, and the machine decides.
LIVES = Workload(
    "order-core, lives", orders.lives, orders.LIFE, (Figure(OURS, SPEED, OURS, PGBENCH, "≥ 0.75"), *_FIGURES)
)


@dataclass(frozen=True, slots=True)
class Scale:
    rounds: int
    batches: int  # counted, per contender and round
    existing: int  # orders beside the newest, which are those that the rounds use up
    seed: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What every contender gets, round by round. No two rounds share an order."""

    polls: dict[str, list[list[Polled]]]  # by contender

    @property
    def events(self) -> int:
        return sum(_count(one) for rounds in self.polls.values() for polls in rounds for one in polls)


async def plan(admin: asyncpg.Connection, workload: Workload, scale: Scale) -> Plan:
    """Reserves the orders: the newest ones for all, and some of any age for SCATTERED."""
    poll = BATCH * LANES
    sizes: dict[str, int] = dict.fromkeys((OURS, PGBENCH, *TRACED, SCATTERED), poll + scale.batches * BATCH)
    sizes[SINGLY] = _WARM_UP + min(MOST_SINGLES, scale.batches * BATCH)
    needed = {name: -(-size // workload.per_order) for name, size in sizes.items()}
    newest = scale.rounds * (sum(needed.values()) - needed[SCATTERED])
    older = max(scale.existing, scale.rounds * needed[SCATTERED])
    await orders.reserve(admin, older + newest, seed=scale.seed)
    latest = await orders.newest(admin, newest)
    chosen = await orders.scattered(admin, scale.rounds * needed[SCATTERED], before=latest[0], seed=scale.seed)
    ahead, scattered = iter(latest), iter(chosen)
    rng = random.Random(scale.seed)
    polls: dict[str, list[list[Polled]]] = {name: [] for name in (OURS, PGBENCH, SINGLY, *TRACED, SCATTERED)}
    for _ in range(scale.rounds):
        for name, rounds in polls.items():
            source = scattered if name is SCATTERED else ahead
            events = workload.events([next(source) for _ in range(needed[name])], seed=rng.random())
            most = 1 if name is SINGLY else poll
            rounds.append(orders.polls(events[: sizes[name]], most=most, sampled=TRACED.get(name)))
    return Plan(polls)


@asynccontextmanager
async def benchmark(
    workload: Workload, scale: Scale, *, databases: Databases, folder: Path
) -> AsyncGenerator[Benchmark]:
    """A database of its own, with every contender's events at hand."""
    database = await asyncio.to_thread(databases.clone, "order_core")
    try:
        async with _connected(database.admin_url) as admin:
            planned = await plan(admin, workload, scale)
        transcript = await rehearse(database, planned.polls[PGBENCH])
        script = folder / f"{workload.name.replace(', ', '-')}.sql"
        async with _connected(database.admin_url) as admin, order_core(database.app_url) as consumer:
            script.write_text(await pgbench.stage(admin, transcript, reader="order_core_app"), encoding="utf-8")
            contest = _Contest(planned, admin, database.admin_url, consumer, script, database.app_url)
            contenders = [
                Contender(OURS, contest.ours),
                Contender(PGBENCH, contest.pgbench),
                Contender(SINGLY, contest.singly),
                *(Contender(name, partial(contest.traced, name)) for name in TRACED),
                Contender(SCATTERED, contest.scattered),
                Contender(PARSED, contest.parsed),
            ]
            yield Benchmark(workload.name, contenders, workload.figures, contest.faults)
    finally:
        await asyncio.to_thread(databases.drop, [database.name])


class _Nobody(SpanExporter):
    """Takes spans, and forgets them."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.SUCCESS


@contextmanager
def _spans_made() -> Generator[None]:
    """Spans are made, collected and handed over as in a service."""
    provider, before = TracerProvider(), tracing._tracer
    provider.add_span_processor(BatchSpanProcessor(_Nobody(), max_queue_size=65_536))
    tracing._tracer = provider.get_tracer("bench")
    try:
        yield
    finally:
        tracing._tracer = before
        provider.shutdown()


@asynccontextmanager
async def order_core(url: str) -> AsyncGenerator[Consumer]:
    """order-core's own consumer on a connection per lane, without a broker: polls are handed to it."""
    settings = PostgresSettings(url=url, pool_size=LANES)  # type: ignore[arg-type]
    async with postgres.pool(settings, application_name="order-core") as pool:
        yield _consumer(consumers.handler(pool, SystemClock()), pool)


def _consumer(handle: Handler, pool: asyncpg.Pool) -> Consumer:
    return Consumer(
        KafkaSettings(bootstrap="nowhere:9092"),  # type: ignore[call-arg]
        group="order-core",
        topics=consumers.TOPICS,
        handle=handle,
        pool=pool,
        health=Health(),
    )


async def settle(consumer: Consumer, polls: Sequence[Polled]) -> None:
    """What the consumer's lanes do at the same time, each between its polls and the commits of its offsets."""

    async def run(lane: int) -> None:
        for polled in polls:
            if lane_of(next(iter(polled))) != lane:
                continue
            if not await consumer._settle(polled, asyncio.Event(), lane=lane):  # pyright: ignore[reportPrivateUsage]
                raise RuntimeError("the database failed a batch again and again")

    await asyncio.gather(*(run(lane) for lane in range(LANES)))


async def rehearse(database: Database, rounds: Sequence[Sequence[Polled]]) -> pgbench.Transcript:
    """What order-core sends for these polls, tried on a copy of the database."""
    copy = f"{database.name}_rehearsal"
    server = lab.admin_url_for(database.admin_url, "postgres")
    await lab.create_database(server, "order_core", copy, template=database.name)
    transcript = pgbench.Transcript()
    try:
        url = lab.admin_url_for(database.admin_url, copy)
        async with _connected(url) as conn, asyncpg.create_pool(url, min_size=0) as pool:

            async def handle(batch: Sequence[Received]) -> None:
                events = [consumers.incoming(received) for received in batch]
                async with conn.transaction():
                    await apply(conn, events, now=SystemClock().now())

            await _learn_types(conn)
            consumer = _consumer(handle, pool)
            for polled in (polled for polls in rounds for polled in polls):
                await transcript.record(conn, lambda polled=polled: settle(consumer, [polled]))
    finally:
        await lab.drop_databases(server, [copy])
    return transcript


async def _learn_types(conn: asyncpg.Connection) -> None:
    """Prepare every query once, so that the driver's own questions about types are not in the transcript."""
    for module in (store, parts, inbox, outbox):
        queries = aiosql.from_path(Path(module.__file__ or "").with_suffix(".sql"), "asyncpg")
        for query in queries.available_queries:
            await conn.prepare(getattr(queries, query).sql)


@dataclass(frozen=True, slots=True)
class _Contest:
    """The contenders' turns, all in one database."""

    plan: Plan
    admin: asyncpg.Connection
    admin_url: str
    consumer: Consumer
    script: Path
    url: str

    async def ours(self, number: int) -> Measures:
        return await self._settled(self.plan.polls[OURS][number])

    async def singly(self, number: int) -> Measures:
        return await self._settled(self.plan.polls[SINGLY][number], at_once=1)

    async def traced(self, name: str, number: int) -> Measures:
        with _spans_made():
            return await self._settled(self.plan.polls[name][number])

    async def scattered(self, number: int) -> Measures:
        return await self._settled(self.plan.polls[SCATTERED][number])

    async def parsed(self, number: int) -> Measures:
        records = [r for polled in self.plan.polls[OURS][number] for of in polled.values() for r in of]
        cpu = time.thread_time()
        for record in records:
            orjson.loads(record.value or b"")
        return {CPU: (time.thread_time() - cpu) * 1e6 / len(records)}

    async def pgbench(self, number: int) -> Measures:
        polls = self.plan.polls[PGBENCH][number]
        before = await self._wal()
        seconds = await pgbench.run(self.script, url=self.url, first=number * len(polls), batches=len(polls))
        wal = await self._wal() - before
        return {
            SPEED: sum(map(_count, polls[_WARM_UP:])) / sum(seconds[_WARM_UP:]),
            WAL: wal / sum(map(_count, polls)),
        }

    async def _settled(self, polls: Sequence[Polled], *, at_once: int | None = None) -> Measures:
        counted = polls[_WARM_UP:]
        at_once = at_once or len(counted)
        await settle(self.consumer, polls[:_WARM_UP])
        events = sum(map(_count, counted))
        wal = await self._wal()
        # Of this thread alone: another one draws the progress.
        cpu, start = time.thread_time(), time.perf_counter()
        for first in range(0, len(counted), at_once):
            await settle(self.consumer, counted[first : first + at_once])
        cpu, seconds = time.thread_time() - cpu, time.perf_counter() - start
        wal = await self._wal() - wal
        return {SPEED: events / seconds, CPU: cpu * 1e6 / events, WAL: wal / events}

    async def _wal(self) -> int:
        """Bytes of write-ahead log since the server's beginning; nobody else writes to it."""
        written = await self.admin.fetchval("select (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint")
        return cast(int, written)

    async def faults(self) -> list[str]:
        """The invariants; and that every event has moved its order, told by one order-changed."""
        found = await violations(self.admin_url)
        told = await self.admin.fetchval(
            """select count(distinct o.event_id) from order_log l
               join outbox o on (o.topic, o.event_id) = ($1, l.order_no || ':' || l.version)""",
            ORDER_CHANGED,
        )
        staged = await self.admin.fetchval("select count(*) from outbox")
        if not told == staged == self.plan.events:
            found.append(f"of {self.plan.events} events {told} have changed an order; {staged} changes are staged")
        return found + await weaknesses(self.admin)


async def violations(url: str) -> list[str]:
    """What the house's own checker finds wrong in this database alone."""
    report = await check(World({"order_core": url}))
    return [f"{violation.invariant}: {violation.sentence}" for violation in report.violations]


def _count(polled: Polled) -> int:
    return sum(map(len, polled.values()))


@asynccontextmanager
async def _connected(url: str) -> AsyncGenerator[asyncpg.Connection]:
    conn = await asyncpg.connect(url)
    try:
        yield conn
    finally:
        await conn.close()
