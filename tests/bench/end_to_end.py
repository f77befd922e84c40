"""From Kafka through order-core and its relay back into Kafka, saturated, as two processes as in production.

Beside a bare script, of two processes too, on a copy of the database (`bare_stream`). A turn's events are produced in
one Kafka transaction, so that all of them are there at once; it ends when every change has been published.
"""

import asyncio
import os
import pickle
import random
import secrets
import sys
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import asyncpg
from aiokafka import AIOKafkaProducer

from orderloop.consume import LANES
from orderloop.settings import KafkaSettings
from orderloop_lab import backing
from orderloop_lab import databases as lab
from orderloop_lab.campaigns.outbox_judge import Judge
from orderloop_lab.home import Home
from orderloop_lab.processes import Supervisor
from orderloop_lab.progress import steps
from orderloop_lab.topics import create_topics
from tests.bench import bare_stream, orders
from tests.bench.durability import weaknesses
from tests.bench.harness import Benchmark, Contender, Figure, Measures
from tests.bench.orders import Sent
from tests.bench.streams import Changes, Process, changes, running
from tests.bench.write_path import rehearse, violations
from tests.support.databases import Database, Databases
from tests.support.kafka import outgoing, settings_for

SPEED, CPU = "events/s", "CPU µs/event"
OURS, BARE = "order-core and relay", "bare script"

FIGURES = (
    Figure(OURS, SPEED, OURS, BARE, gate=0.8),
    Figure(OURS, CPU, OURS, BARE),
)


@dataclass(frozen=True, slots=True)
class Scale:
    rounds: int
    batches: int  # of bare_stream.BATCH events, per contender and round
    existing: int  # orders beside those that are paid
    seed: int


@asynccontextmanager
async def benchmark(scale: Scale, *, databases: Databases, home: Home, folder: Path) -> AsyncGenerator[Benchmark]:
    bootstrap = await backing.provide(backing.KAFKA, home, Supervisor(home), steps(quiet=True), os.environ)
    ours = await asyncio.to_thread(databases.clone, "order_core")
    bare = replace(ours, **_urls(ours, f"{ours.name}_bare"))
    try:
        turns = await _turns(ours, scale)
        await _write_down(ours, turns, folder / "bare.pickle")
        await lab.create_database(_server(ours), "order_core", bare.name, template=ours.name)
        async with AsyncExitStack() as stack:
            contest = _Contest(
                turns,
                await stack.enter_async_context(_side(OURS, _OURS, ours, bootstrap, home)),
                await stack.enter_async_context(_side(BARE, _bare(folder), bare, bootstrap, home)),
            )
            for side in contest.sides:
                await side.take(turns[0])  # statements are prepared, connections warm
            contenders = [Contender(OURS, contest.ours), Contender(BARE, contest.bare)]
            yield Benchmark("end-to-end", contenders, FIGURES, contest.faults)
    finally:
        await asyncio.to_thread(databases.drop, [ours.name, bare.name])


_OURS = {"core": (sys.executable, "-m", "order_core", "serve"), "relay": (sys.executable, "-m", "order_core", "relay")}


def _bare(folder: Path) -> Mapping[str, Sequence[str]]:
    module = (sys.executable, "-m", bare_stream.__name__)
    return {"core": (*module, "core", str(folder / "bare.pickle")), "relay": (*module, "relay")}


def _server(database: Database) -> str:
    return lab.admin_url_for(database.admin_url, "postgres")


def _urls(like: Database, name: str) -> dict[str, Any]:
    app, owner = (lab.url_for(like.admin_url, role=f"order_core_{role}", database=name) for role in ("app", "owner"))
    return {
        "name": name,
        "app_url": app,
        "owner_url": owner,
        "admin_url": lab.admin_url_for(like.admin_url, name),
    }


async def _turns(database: Database, scale: Scale) -> Sequence[Sequence[Sent]]:
    """Payments of the newest orders, for a warm-up and every round; no two share an order."""
    each = scale.batches * bare_stream.BATCH
    count = each * (scale.rounds + 1)
    admin = await asyncpg.connect(database.admin_url)
    try:
        await orders.reserve(admin, scale.existing + count, seed=scale.seed)
        order_nos = await orders.newest(admin, count)
    finally:
        await admin.close()
    chance = random.Random(scale.seed)
    starts = range(0, count, each)
    return [orders.payments(order_nos[start : start + each], seed=chance.randrange(1 << 32)) for start in starts]


async def _write_down(database: Database, turns: Sequence[Sequence[Sent]], file: Path) -> None:
    """What order-core sends for these events, batch by batch: those of its lanes, one after the other."""
    transcript = await rehearse(database, [orders.polls(turn, most=bare_stream.BATCH * LANES) for turn in turns])
    scripts = [
        [(transcript.statements[n], arguments) for n, arguments in sorted(batch.items())]
        for batch in transcript.batches
    ]
    await asyncio.to_thread(file.write_bytes, pickle.dumps(scripts))


@asynccontextmanager
async def _side(
    name: str, commands: Mapping[str, Sequence[str]], database: Database, bootstrap: str, home: Home
) -> AsyncGenerator["_Side"]:
    kafka = settings_for(bootstrap, f"bench{secrets.token_hex(4)}.")
    await create_topics(bootstrap, kafka.topic_prefix)
    env = {"ORDERLOOP_OUTBOX_RELAY": "external", "ORDERLOOP_REDIS_URL": "redis://127.0.0.1:1/0"}  # nothing ships here
    async with AsyncExitStack() as stack:
        topic = await stack.enter_async_context(changes(kafka))
        processes = [
            await stack.enter_async_context(
                running(
                    home,
                    f"bench-{kafka.topic_prefix}{part}",
                    argv,
                    database=database,
                    kafka=kafka,
                    env=env | ({"ORDERLOOP_HTTP_PORT": str(home.port("bench-core"))} if argv == _OURS["core"] else {}),
                )
            )
            for part, argv in commands.items()
        ]
        yield _Side(name, database, kafka, topic, processes)


@dataclass(slots=True)
class _Side:
    """Two processes with a database and topics of their own."""

    name: str
    database: Database
    kafka: KafkaSettings
    topic: Changes
    processes: Sequence[Process]

    async def take(self, turn: Sequence[Sent]) -> Measures:
        before = await self.topic.count()
        producer = AIOKafkaProducer(
            bootstrap_servers=self.kafka.bootstrap, transactional_id=f"{self.kafka.topic_prefix}input"
        )
        await producer.start()
        try:
            await producer.begin_transaction()
            for sent in turn:
                one = outgoing(sent.event, sent.event_id, source=sent.source)
                topic = self.kafka.topic_prefix + one.topic
                await producer.send(topic, one.value, key=one.key, headers=list(one.headers))
            await producer.flush()
            spent = self._spent()
            await producer.commit_transaction()
            began = time.perf_counter()
            await self.topic.until(before + len(turn))
            seconds = time.perf_counter() - began
        finally:
            await producer.stop()
        return {SPEED: len(turn) / seconds, CPU: (self._spent() - spent) * 1e6 / len(turn)}

    def _spent(self) -> float:
        return sum(process.spent() for process in self.processes)

    async def faults(self, turns: Sequence[Sequence[Sent]]) -> list[str]:
        """The invariants; and that every payment was told once, as the second version of its order."""
        paid = {sent.event.order_no for turn in turns for sent in turn}
        judge = await self.topic.judge(Judge(published=dict.fromkeys(paid, 1)))
        found = await violations(self.database.admin_url)
        found += judge.violations(dict.fromkeys(paid, 2), most_repeats=0)
        admin = await asyncpg.connect(self.database.admin_url)
        try:
            found += await weaknesses(admin)
        finally:
            await admin.close()
        return [f"{self.name}: {one}" for one in found[:20]]


@dataclass(slots=True)
class _Contest:
    """The contenders' turns."""

    turns: Sequence[Sequence[Sent]]  # the first is for warming up
    our_side: _Side
    bare_side: _Side

    @property
    def sides(self) -> Sequence[_Side]:
        return self.our_side, self.bare_side

    async def ours(self, number: int) -> Measures:
        return await self.our_side.take(self.turns[number + 1])

    async def bare(self, number: int) -> Measures:
        return await self.bare_side.take(self.turns[number + 1])

    async def faults(self) -> list[str]:
        return [fault for side in self.sides for fault in await side.faults(self.turns)]
