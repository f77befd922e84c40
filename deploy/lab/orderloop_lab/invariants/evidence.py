"""Reading a running system so that what was read can testify.

Nothing stands still, so everything is read at another moment. What makes a comparison sound is the order: of an
effect and its cause, the effect is read first, because a cause never vanishes again. Hence

    1. the simulators' ledgers (`before`)      what is acknowledged or moved out there was written down in here first
    2. the committed offsets, the topics' ends what lies below them was in order-core's database before
    3. one snapshot per database: order-core, settlement, payment-callback, logistics-poller; an order is completed
       after its settlement
    4. the topics' ends once more              what has left an outbox before 3 lies below them
    5. the ledgers (`after`)                   what is known in here was sent or paid out there before

and every topic is read up to 4, its records below 2 marked.
"""

from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiosql
import asyncpg
import httpx

from orderloop_lab.errors import LabError
from orderloop_lab.home import Home
from orderloop_lab.processes import Supervisor
from orderloop_lab.services import SERVICES
from orderloop_lab.system import Lab

from .topics import Broker, Testimony, look, read

_sql: Any = aiosql.from_path(Path(__file__).with_name("books.sql"), "asyncpg")
_ROWS = 2000  # fetched at once from a large result
_LEDGERS: Mapping[str, str] = {
    "wechat": "/sim/ledger",
    "alipay": "/sim/ledger",
    "wms": "/sim/ledger/active",
    "bank": "/sim/ledger",
}

CHANNELS = "wechat or alipay"  # a source that is there if one of them is


@dataclass(frozen=True, slots=True)
class World:
    """Where to look. Whatever is left out is not looked at, and the invariants that need it are not checked."""

    databases: Mapping[str, str]  # those of DATABASES: a DSN that may read all tables
    kafka: Broker | None = None
    simulators: Mapping[str, str] | None = None  # wechat, alipay, wms, bank: base URLs

    @classmethod
    def of(cls, lab: Lab, *, simulators: Collection[str] = tuple(_LEDGERS)) -> "World":
        """`simulators`: those that run there."""
        around = lab.surroundings
        return cls(
            databases={name: around.database_url(name, "app") for name in DATABASES},
            kafka=Broker(around.backing.kafka_bootstrap, around.prefix),
            simulators={name: lab.urls[name] for name in simulators},
        )

    @classmethod
    def running(cls, folder: Path) -> "World":
        """The lab that is up in `folder`, by what its processes were told. Starts, makes and asks for nothing.

        Raises LabError when something that has to be looked at does not run.
        """
        if not folder.is_dir():
            raise LabError(f"There is no lab in {folder}: `make up` starts one.")
        supervisor = Supervisor(Home(folder))
        services = {one.database: supervisor.command(one.name) for one in SERVICES if one.listens}
        core = services["order_core"].env
        return cls(
            databases={name: services[name].env["ORDERLOOP_POSTGRES_URL"] for name in DATABASES},
            kafka=Broker(core["ORDERLOOP_KAFKA_BOOTSTRAP"], core["ORDERLOOP_KAFKA_TOPIC_PREFIX"]),
            simulators={name: supervisor.command(name).url.removesuffix("/livez") for name in _LEDGERS},
        )


# In this order: see step 3 above.
DATABASES = ("order_core", "settlement", "payment_callback", "logistics")


@dataclass(frozen=True, slots=True)
class Evidence:
    snapshots: Mapping[str, asyncpg.Connection]
    before: Mapping[str, Any]  # the simulators' ledgers
    after: Mapping[str, Any]
    testimony: Testimony | None = None  # what the topics say; None if they cannot be read from their beginning
    unreadable: str = ""  # why they cannot

    def why_not(self, missing: Collection[str]) -> str:
        """Why an invariant that needs these is not checked."""
        lost = self.unreadable if "kafka" in missing else ""
        return lost or f"for want of {', '.join(sorted(missing))}"

    @property
    def sources(self) -> frozenset[str]:
        some = {CHANNELS: {"wechat", "alipay"} & self.after.keys(), "kafka": self.testimony}
        return frozenset({*self.snapshots, *self.after, *(name for name, there in some.items() if there)})

    @property
    def topics(self) -> Testimony:
        if self.testimony is None:
            raise LabError("This needs Kafka: give the world a broker.")
        return self.testimony

    async def rows(self, database: str, query: str, **parameters: Any) -> AsyncGenerator[asyncpg.Record]:
        """The rows of a query of books.sql, streamed; none if the database is not among the sources."""
        if database in self.snapshots:
            named: Any = getattr(_sql, query)
            order: Sequence[str] = _sql.driver_adapter.var_sorted[query]
            arguments = [parameters[name] for name in order]
            async for row in self.snapshots[database].cursor(named.sql, *arguments, prefetch=_ROWS):
                yield row


@asynccontextmanager
async def gather(world: World) -> AsyncGenerator[Evidence]:
    """Everything there is to read, in the order that makes it sound. Raises LabError, asyncpg and Kafka errors."""
    async with AsyncExitStack() as stack:
        before = await _ledgers(world)
        first = await look(world.kafka) if world.kafka else None
        snapshots: dict[str, asyncpg.Connection] = {}
        for name in DATABASES:
            if name in world.databases:
                snapshots[name] = await _snapshot(stack, world.databases[name])
        last = await look(world.kafka) if world.kafka else None
        after = await _ledgers(world)
        evidence = Evidence(snapshots, before, after, unreadable=last.lost if last else "")
        if world.kafka and first and last and not last.lost:
            dead = {row["event_id"] async for row in evidence.rows("order_core", "staged_dead_letters")}
            evidence = replace(evidence, testimony=await read(world.kafka, first, last, dead))
        yield evidence


async def _snapshot(stack: AsyncExitStack, dsn: str) -> asyncpg.Connection:
    conn = await asyncpg.connect(dsn, timeout=10, server_settings={"application_name": "invariants"})
    stack.push_async_callback(conn.close)
    await stack.enter_async_context(conn.transaction(isolation="repeatable_read", readonly=True))
    await _sql.snapshot(conn)
    return conn


async def _ledgers(world: World) -> dict[str, Any]:
    ledgers: dict[str, Any] = {}
    if not world.simulators:
        return ledgers  # a client takes a tenth of a second to make
    async with httpx.AsyncClient(timeout=120, trust_env=False) as client:
        for name, url in world.simulators.items():
            try:
                answer = await client.get(url + _LEDGERS[name])
                ledgers[name] = answer.raise_for_status().json()
            except httpx.HTTPError as error:
                raise LabError(f"The simulator {name} does not show its ledger: {error!r}. Is it running?") from error
    return ledgers
