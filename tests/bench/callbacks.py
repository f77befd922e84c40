"""payment-callback as a process of its own: authentic notices over HTTP, verified, decrypted, committed, answered.

Beside two references: a service that commits every notice by itself (`callback_reference`), and the limit that the
cryptography sets. The relay is left out of it all (a process of its own that nobody starts), and so is Kafka.
"""

import asyncio
import dataclasses
import json
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median, quantiles

import asyncpg
import psutil

from orderloop_lab.errors import LabError
from orderloop_lab.home import Home
from orderloop_lab.processes import Command, Supervisor
from orderloop_lab.simulators.wechat_keys import Keys, open_keys
from payment_callback.channels.wechat import WeChat
from payment_callback.channels.wechat_keys import public_key
from tests.bench import callback_driver as driver
from tests.bench.durability import weaknesses
from tests.bench.harness import Benchmark, Contender, Figure, Measures
from tests.support.databases import Database, Databases
from tests.support.payment_callback import NOBODY_LISTENS

ROOT = Path(__file__).parents[2]

CONNECTIONS = 128
WARM_UP = 500  # notices that are not counted: statements are prepared, connections warm
RATE = 1000.0  # notices/s of the open loop, unless the machine is too slow for it
HEADROOM = 0.7  # an open loop above this share of what was reached at full load measures the queue, not the service
SERVICE, REFERENCE = ("payment_callback", "serve"), ("tests.bench.callback_reference",)
VERIFIED = 500  # notices, again and again

SPEED, PER_CORE, USUAL, SLOW, PACE = "notices/s", "notices/CPU-s", "p50 ms", "p99 ms", "paced at/s"
OURS, SINGLY, PACED, CRYPTO = "payment-callback", "commit each", "open loop", "crypto alone"

FIGURES = (
    Figure(OURS, SPEED, OURS, SINGLY, "≥ 2.5"),
    Figure(OURS, PER_CORE, OURS, SINGLY, "≥ 3,000/s, ≥ 2.5"),
    Figure(OURS, PER_CORE, OURS, CRYPTO),
    Figure(PACED, USUAL, PACED),
    Figure(PACED, SLOW, PACED, None, "≤ 50 at 1,000/s"),
    Figure(PACED, PACE, PACED),
)


@dataclass(frozen=True, slots=True)
class Scale:
    notices: int  # counted, per contender and round


@asynccontextmanager
async def benchmark(scale: Scale, *, databases: Databases, home: Home) -> AsyncGenerator[Benchmark]:
    state = home.folder / "callbacks"
    keys = await asyncio.to_thread(open_keys, state)
    async with AsyncExitStack() as stack:

        async def desk(module: Sequence[str]) -> Desk:
            return await stack.enter_async_context(open_desk(module, databases=databases, home=home, keys=keys))

        contest = _Contest(scale, keys, await desk(SERVICE), await desk(REFERENCE))
        for one in (contest.mine, contest.reference):
            await one.take(WARM_UP)
        contenders = [
            Contender(OURS, contest.ours),
            Contender(SINGLY, contest.singly),
            Contender(PACED, contest.paced),
            Contender(CRYPTO, contest.crypto),
        ]
        yield Benchmark("callbacks", contenders, FIGURES, contest.faults)


@dataclass(slots=True)
class Desk:
    """A service with a database of its own, and what it has answered."""

    name: str
    database: Database
    port: int
    process: psutil.Process
    state: Path  # in which the keys are
    sent: int = 0
    acknowledged: list[str] = field(default_factory=list[str])  # event ids

    async def take(self, count: int, rate: float | None = None) -> tuple[driver.Outcome, float]:
        """Let the driver send so many more notices. Returns the CPU-seconds of the service, too."""
        errand = driver.Errand(str(self.state), self.port, self.sent, count, CONNECTIONS, rate)
        driving = await asyncio.create_subprocess_exec(
            sys.executable, "-m", driver.__name__,
            cwd=ROOT, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=1 << 26,
        )  # fmt: skip
        assert driving.stdin
        assert driving.stdout
        try:
            driving.stdin.write(json.dumps(dataclasses.asdict(errand)).encode() + b"\n")
            if await driving.stdout.readline() != b"ready\n":
                raise RuntimeError("the driver has ended before it was ready")
            spent = self._spent()
            driving.stdin.write(b"go\n")
            said = await driving.stdout.readline()
            if not said:
                raise RuntimeError("the driver has ended in the middle")
            outcome = driver.Outcome(**json.loads(said))
            spent = self._spent() - spent
        finally:
            if driving.returncode is None:
                driving.kill()
            await driving.wait()
        numbers = range(self.sent, self.sent + count)
        self.acknowledged += [
            driver.event_id(n) for n, status in zip(numbers, outcome.statuses, strict=True) if _heard(status)
        ]
        self.sent += count
        return outcome, spent

    def _spent(self) -> float:
        """CPU-seconds since the service's beginning, those of its children included."""
        times = [one.cpu_times() for one in (self.process, *self.process.children(recursive=True))]
        return sum(each.user + each.system for each in times)

    async def faults(self) -> list[str]:
        """Whether everything that was acknowledged is stored exactly once, everywhere."""
        admin = await asyncpg.connect(self.database.admin_url)
        try:
            found = await weaknesses(admin)
            for table, query in _STORED.items():
                stored = Counter({str(row["event_id"]): int(row["count"]) for row in await admin.fetch(query)})
                wrong = [one for one in self.acknowledged if stored[one] != 1]
                if wrong:
                    found.append(f"{len(wrong)} acknowledged notices are not in {table} exactly once")
                if strange := len(set(stored) - {driver.event_id(number) for number in range(self.sent)}):
                    found.append(f"{strange} events in {table} that nobody has sent")
        finally:
            await admin.close()
        # Who answers in time only what is easy has not been faster.
        if unheard := self.sent - len(self.acknowledged):
            found.append(f"{unheard} of {self.sent} notices were not acknowledged")
        return [f"{self.name}: {fault}" for fault in found]


_STORED = {
    "callback_log": "select event_id, count(*) from callback_log, unnest(event_ids) event_id "
    "where verdict = 'accepted' group by event_id",
    "callback_memory": "select event_id, count(*) from callback_memory group by event_id",
    "outbox": "select event_id, count(*) from outbox group by event_id",
}


def _heard(status: int) -> bool:
    return 200 <= status < 300


@asynccontextmanager
async def open_desk(module: Sequence[str], *, databases: Databases, home: Home, keys: Keys) -> AsyncGenerator[Desk]:
    name = module[0]
    database = await asyncio.to_thread(databases.clone, "payment_callback")
    supervisor, port = Supervisor(home), home.port(f"bench-{name}")
    command = Command(
        name=f"bench-{name}",
        argv=(sys.executable, "-m", *module),
        folder=str(home.folder / "callbacks" / name),
        url=f"http://127.0.0.1:{port}/readyz",
        layer=1,
        env={
            "PYTHONPATH": str(ROOT),
            "ORDERLOOP_POSTGRES_URL": database.app_url,
            "ORDERLOOP_KAFKA_BOOTSTRAP": NOBODY_LISTENS,
            "ORDERLOOP_OUTBOX_RELAY": "external",
            "ORDERLOOP_HTTP_PORT": str(port),
            "ORDERLOOP_HTTP_OPERATOR_TOKEN": "operator",
            "ORDERLOOP_LOG_LEVEL": "WARNING",
            **keys.settings(),
            "ORDERLOOP_WECHAT_API_BASE_URL": f"http://{NOBODY_LISTENS}",
        },
    )
    try:
        await supervisor.start(command)
        [pid] = [status.pid for status in supervisor.status() if status.name == command.name]
        yield Desk(name, database, port, psutil.Process(pid), keys.folder.parent)
    finally:
        await supervisor.stop(command.name)
        await asyncio.to_thread(databases.drop, [database.name])


@dataclass(slots=True)
class _Contest:
    """The contenders' turns."""

    scale: Scale
    keys: Keys
    mine: Desk
    reference: Desk
    rate: float | None = None  # of the open loop, known after the first turn at full load

    async def ours(self, _number: int) -> Measures:
        measures = await self._full_load(self.mine)
        self.rate = self.rate or min(RATE, HEADROOM * measures[SPEED])
        return measures

    async def singly(self, _number: int) -> Measures:
        return await self._full_load(self.reference)

    async def _full_load(self, desk: Desk) -> Measures:
        outcome, spent = await desk.take(self.scale.notices)
        stored = sum(map(_heard, outcome.statuses))
        if not stored:
            raise LabError(f"{desk.name} has acknowledged none of its notices: {Counter(outcome.statuses)}")
        return {SPEED: stored / outcome.seconds, PER_CORE: stored / spent}

    async def paced(self, _number: int) -> Measures:
        assert self.rate is not None
        outcome, _ = await self.mine.take(self.scale.notices, self.rate)
        *_, slow = quantiles(outcome.latencies, n=100)
        return {USUAL: median(outcome.latencies) * 1e3, SLOW: slow * 1e3, PACE: self.rate}

    async def crypto(self, _number: int) -> Measures:
        """Verify and decrypt, in this thread and nothing else."""
        pem = (self.keys.folder / "public_key.pem").read_bytes()
        channel = WeChat(
            mchid="", appids=(), apiv3_key=self.keys.apiv3_key, keys=public_key(self.keys.public_key_id, pem)
        )
        notices = [driver.notice(self.keys, number) for number in range(VERIFIED)]
        requests = [(sent.lower, sent.body) for sent in notices]
        now = datetime.now(UTC)
        turns = -(-self.scale.notices // VERIFIED)
        cpu = time.thread_time()
        for _ in range(turns):
            for headers, body in requests:
                channel.verify(headers, body, now)
                channel.decrypt(body)
        return {PER_CORE: turns * VERIFIED / (time.thread_time() - cpu)}

    async def faults(self) -> list[str]:
        return [*await self.mine.faults(), *await self.reference.faults()]
