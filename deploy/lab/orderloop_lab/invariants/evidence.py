"""Reading a running system so that what was read can testify.

Nothing stands still, so everything is read at another moment. What makes a comparison sound is the order: of an
effect and its cause, the effect is read first, because a cause never vanishes again. Hence

    1. the simulators' ledgers (`before`)      what is acknowledged or moved out there was written down in here first
    2. the committed offsets, the topics' ends what lies below them was in order-core's database before
    3. one snapshot per database: order-core, settlement, payment-callback; an order is completed after its settlement
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
from orderloop_lab.system import Lab

from .topics import Broker, Testimony, look, read

_sql: Any = aiosql.from_path(Path(__file__).with_name("books.sql"), "asyncpg")
_ROWS = 2000  # fetched at once from a large result
_LEDGERS: Mapping[str, str] = {"wechat": "/sim/ledger", "wms": "/sim/ledger/active", "bank": "/sim/ledger"}


@dataclass(frozen=True, slots=True)
class World:
    """Where to look. Whatever is left out is not looked at, and the invariants that need it do not apply."""

    databases: Mapping[str, str]  # order_core, settlement, payment_callback: a DSN that may read all tables
    kafka: Broker | None = None
    simulators: Mapping[str, str] | None = None  # wechat, wms, bank: base URLs

    @classmethod
    def of(cls, lab: Lab, *, simulators: Collection[str] = tuple(_LEDGERS)) -> "World":
        """`simulators`: those that run there."""
        around = lab.surroundings
        return cls(
            databases={name: around.database_url(name, "app") for name in _SNAPSHOTS},
            kafka=Broker(around.backing.kafka_bootstrap, around.prefix),
            simulators={name: lab.urls[name] for name in simulators},
        )


# In this order: see step 3 above.
_SNAPSHOTS = ("order_core", "settlement", "payment_callback")


@dataclass(frozen=True, slots=True)
class Evidence:
    snapshots: Mapping[str, asyncpg.Connection]
    before: Mapping[str, Any]  # the simulators' ledgers
    after: Mapping[str, Any]
    testimony: Testimony | None  # what the topics say; None if they cannot be read from their beginning

    @property
    def sources(self) -> frozenset[str]:
        return frozenset({*self.snapshots, *self.after, *({"kafka"} if self.testimony else ())})

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
        for name in _SNAPSHOTS:
            if name in world.databases:
                snapshots[name] = await _snapshot(stack, world.databases[name])
        last = await look(world.kafka) if world.kafka else None
        after = await _ledgers(world)
        evidence = Evidence(snapshots, before, after, None)
        if world.kafka and first and last:
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
