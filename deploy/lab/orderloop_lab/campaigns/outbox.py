"""The outbox under many writers whose ids are committed out of order, with relays killed and an old snapshot held."""

import asyncio
import sys
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
import psutil
from aiokafka import AIOKafkaConsumer, TopicPartition
from rich.progress import Progress

from orderloop.topics import ORDER_CHANGED, PARTITIONS
from orderloop_lab import backing, databases
from orderloop_lab.errors import LabError
from orderloop_lab.home import Home
from orderloop_lab.processes import Command, Supervisor
from orderloop_lab.progress import step
from orderloop_lab.topics import create_topics

from .outbox_judge import Judge, digest
from .outbox_plan import LANES, Plan
from .outbox_writers import TABLES, Errand
from .verdict import Verdict

PURPOSE = "rows committed out of the order of their ids, relays killed, an old snapshot held all the while"

_RELAYS = ("relay-1", "relay-2")
_WRITERS = 4  # processes; each has an equal share of the lanes
_BATCH = 500  # rows that a relay publishes at once: what a kill may publish again
_AHEAD = 4000  # rows that may be staged and not yet published: the relay is to read where ids are still missing
_LOOK_SECONDS = 0.1
_SILENCE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Scene:
    """Where a campaign takes place: a migrated database of order-core's, and an empty topic."""

    home: Home
    supervisor: Supervisor
    admin_url: str
    app_url: str
    bootstrap: str
    prefix: str = ""  # of the topic


async def campaign(folder: Path, *, n: int, seed: int, progress: Progress) -> Verdict:
    """In a lab of its own in `folder`, which is stopped again."""
    home = Home(folder)
    supervisor = Supervisor(home)
    try:
        server, bootstrap = await asyncio.gather(
            backing.provide(backing.POSTGRES, home, supervisor, progress, {}),
            backing.provide(backing.KAFKA, home, supervisor, progress, {}),
        )
        with step(progress, "Database and topic"):
            await databases.create_roles(server)
            await databases.create_database(server, "order_core", "order_core")
            await databases.migrate_database(server, "order_core", "order_core")
            await create_topics(bootstrap, "", (ORDER_CHANGED,))
        admin_url = databases.admin_url_for(server, "order_core")
        app_url = databases.url_for(server, role="order_core_app", database="order_core")
        return await run(Scene(home, supervisor, admin_url, app_url, bootstrap), Plan(n, seed), progress=progress)
    finally:
        await supervisor.stop_all()


async def run(scene: Scene, plan: Plan, *, progress: Progress, writers: int = _WRITERS) -> Verdict:
    finals = plan.finals
    async with _connected(scene.admin_url) as admin, _connected(scene.admin_url) as reader, _reading(scene) as topic:
        await _prepare(admin, finals)
        async with reader.transaction(isolation="repeatable_read", readonly=True):
            await reader.fetchval("select count(*) from outbox")  # the old snapshot
            watch = _Watch(scene, plan, admin, topic)
            try:
                await watch.start(writers)
                await watch.follow(progress)
            finally:
                await asyncio.gather(*map(scene.supervisor.stop, watch.started))
        with step(progress, "Judging", total=await _end(topic)) as task:
            judge = await _judge(topic, lambda seen: progress.update(task, completed=seen))
    staged = dict(await _versions(scene))
    violations = watch.violations + list(judge.violations(staged, most_repeats=watch.killed * _BATCH))
    if staged != finals:
        violations.append("the writers have not staged what was planned: their logs say why")
    return Verdict(
        figures={
            "rows staged": sum(staged.values()),
            "orders": len(staged),
            "writers": f"{writers} processes, {LANES} connections",
            "leaders killed": watch.killed,
            "lost": sum(1 for _ in judge.lost(staged)),
            "inverted": len(judge.inverted),
            "published again": judge.repeats,
            "longest time without a leader's publishing": f"{watch.longest_gap:.1f} s",
            "from first to last": f"{watch.seconds:.1f} s",
            "rows/s": int(sum(staged.values()) / watch.seconds),
        },
        plan=plan.digest,
        finals=judge.digest if judge.published else digest({}),
        violations=violations,
    )


@dataclass(slots=True)
class _Watch:
    """Lets the writers go on as the relay follows, and kills whoever leads when it is time."""

    scene: Scene
    plan: Plan
    admin: asyncpg.Connection
    topic: AIOKafkaConsumer
    started: list[str] = field(default_factory=list[str])
    violations: list[str] = field(default_factory=list[str])
    published: int = 0
    killed: int = 0
    longest_gap: float = 0
    began: float = field(default_factory=time.monotonic)
    moved: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        return self.moved - self.began

    async def start(self, writers: int) -> None:
        for name in _RELAYS:
            await self._start(name, (sys.executable, "-m", "order_core", "relay"))
        for n in range(writers):
            lanes = tuple(range(n, LANES, writers))
            errand = Errand(self.scene.app_url, self.plan.rows, self.plan.seed, lanes)
            await self._start(f"writer-{n + 1}", errand.argv())
        self.began = self.moved = time.monotonic()

    async def _start(self, name: str, argv: tuple[str, ...]) -> None:
        env = {
            "ORDERLOOP_POSTGRES_URL": self.scene.app_url,
            "ORDERLOOP_KAFKA_BOOTSTRAP": self.scene.bootstrap,
            "ORDERLOOP_KAFKA_TOPIC_PREFIX": self.scene.prefix,
            "ORDERLOOP_OUTBOX_BATCH": str(_BATCH),
        }
        folder = str(self.scene.home.folder / "work" / name)
        await self.scene.supervisor.start(Command(name=name, argv=argv, folder=folder, url="", layer=1, env=env))
        self.started.append(name)

    async def follow(self, progress: Progress) -> None:
        """Until everything is published, or nothing moves any more."""
        kills = [*self.plan.kills]
        bar = progress.add_task("Published", total=self.plan.rows)
        while not await self._is_over():
            await self._look()
            progress.update(bar, completed=self.published, description=f"Published, {self.killed} leaders killed")
            await self.admin.execute("update campaign.pace set allowed = $1", self.published + _AHEAD)
            if kills and self.published >= kills[0] and await self._kill_the_leader():
                kills.pop(0)
            if time.monotonic() - self.moved > _SILENCE_SECONDS:
                self.violations.append(f"nothing was published for {_SILENCE_SECONDS:.0f} s")
                return
            await asyncio.sleep(_LOOK_SECONDS)
        if kills:
            self.violations.append(f"{len(kills)} of {len(self.plan.kills)} leaders were not killed in time")
        progress.update(bar, completed=self.plan.rows)

    async def _look(self) -> None:
        published = await _end(self.topic)
        if published != self.published:
            now = time.monotonic()
            self.longest_gap = max(self.longest_gap, now - self.moved if self.published else 0)
            self.published, self.moved = published, now

    async def _is_over(self) -> bool:
        writing = any(self.scene.supervisor.running(name) for name in self.started if name not in _RELAYS)
        return not writing and not await self.admin.fetchval("select exists (select from outbox)")

    async def _kill_the_leader(self) -> bool:
        """False while nobody leads. The other one takes over; the killed one comes back to stand by."""
        port = await self.admin.fetchval(
            "select client_port from pg_stat_activity where application_name = 'order-core relay'"
            " and pid in (select pid from pg_locks where locktype = 'advisory' and objid = 7233002 and granted)"
            " and datname = current_database()"
        )
        pids = {status.name: status.pid for status in self.scene.supervisor.status() if status.name in _RELAYS}
        for name, pid in pids.items():
            if pid is not None and port in _ports(pid):
                await self.scene.supervisor.kill(name)
                await self.scene.supervisor.restart(name)
                self.killed += 1
                return True
        return False


def _ports(pid: int) -> set[int]:
    with suppress(psutil.Error):
        return {one.laddr.port for one in psutil.Process(pid).net_connections("tcp") if one.laddr}
    return set()


async def _prepare(admin: asyncpg.Connection, finals: Mapping[str, int]) -> None:
    await admin.execute(TABLES)
    rows = ((order_no,) for order_no in sorted(finals))
    await admin.copy_records_to_table("orders", schema_name="campaign", columns=["order_no"], records=rows)


async def _versions(scene: Scene) -> list[tuple[str, int]]:
    async with _connected(scene.admin_url) as admin:
        rows = await admin.fetch("select order_no, version from campaign.orders where version > 0")
    return [(row["order_no"], row["version"]) for row in rows]


async def _end(topic: AIOKafkaConsumer) -> int:
    """How many records the topic has."""
    return sum((await topic.end_offsets(topic.assignment())).values())


async def _judge(topic: AIOKafkaConsumer, seen: Callable[[int], None]) -> Judge:
    judge, count, end = Judge(), 0, await _end(topic)
    heard = time.monotonic()
    while count < end:
        polled = await topic.getmany(timeout_ms=500, max_records=5000)
        for records in polled.values():
            for record in records:
                judge.follow(record)
            count += len(records)
        heard = time.monotonic() if polled else heard
        if time.monotonic() - heard > _SILENCE_SECONDS:
            raise LabError(f"Kafka has shown only {count} of {end} records: look at its log.")
        seen(count)
    return judge


@asynccontextmanager
async def _reading(scene: Scene) -> AsyncGenerator[AIOKafkaConsumer]:
    consumer = AIOKafkaConsumer(
        bootstrap_servers=scene.bootstrap, group_id=None, enable_auto_commit=False, auto_offset_reset="earliest"
    )
    await consumer.start()
    try:
        consumer.assign([TopicPartition(scene.prefix + ORDER_CHANGED, n) for n in range(PARTITIONS)])
        await consumer.seek_to_beginning()
        yield consumer
    finally:
        await consumer.stop()


@asynccontextmanager
async def _connected(url: str) -> AsyncGenerator[asyncpg.Connection]:
    conn = await asyncpg.connect(url)
    try:
        yield conn
    finally:
        await conn.close()
