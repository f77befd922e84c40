"""Where one run of the campaign `crash` takes place: a database and topics of its own, and processes to be hurt."""

import asyncio
import itertools
import signal
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import httpx
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from order_core.reserve import Reservation, reserve
from orderloop import kafka
from orderloop.errors import is_transient
from orderloop.events import Item, Receiver
from orderloop.ids import new_order_no
from orderloop.settings import KafkaSettings
from orderloop.topics import ALL, DEAD_LETTERS
from orderloop_lab import databases
from orderloop_lab.home import Home
from orderloop_lab.topics import CONTRACT, create_topics

from .crash_lives import AMOUNT, Told
from .nursery import Child, Start, nursery

PARTITIONS = 3  # as many as there are ever replicas; of dead letters, which are few, one
SESSION_SECONDS = 6  # the least that a broker grants
_LOOK_SECONDS = 0.02
_AGAIN_SECONDS = 0.2
_COMMAND_SECONDS = 60.0  # a command waits for a frozen transaction's locks as well
_ANSWER_SECONDS = 3.0  # a frozen process answers nothing
_GROUP = "order-core"
_BOOKS = """
    select no as order_no, o.status, coalesce(o.version, 0) as version,
           array(select kind from anomaly a where a.order_no = no order by kind) as anomalies,
           (select count(*) from waiting w where w.order_no = no) as waiting
    from unnest($1::text[]) as given (no) left join orders o on o.order_no = no
"""


@dataclass(frozen=True, slots=True)
class Ground:
    """What all runs of a campaign stand on."""

    home: Home
    postgres_admin_url: str
    kafka: KafkaSettings
    template: str  # a migrated database
    broker: AIOKafkaAdminClient
    http: httpx.AsyncClient
    start: Start


@asynccontextmanager
async def ground(home: Home, postgres_admin_url: str, bootstrap: str) -> AsyncGenerator[Ground]:
    """Around a PostgreSQL and a Kafka that run."""
    settings = KafkaSettings.model_validate({"bootstrap": bootstrap})
    template = f"crash_{home.id}_template"
    await databases.create_roles(postgres_admin_url)
    await databases.drop_databases(postgres_admin_url, [template])
    await databases.create_database(postgres_admin_url, "order_core", template)
    await databases.migrate_database(postgres_admin_url, "order_core", template)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(databases.drop_databases, postgres_admin_url, [template])
        broker = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
        await broker.start()
        stack.push_async_callback(broker.close)
        http = await stack.enter_async_context(
            httpx.AsyncClient(timeout=_ANSWER_SECONDS, trust_env=False, verify=False)  # noqa: S501 # all on this machine
        )
        start = await stack.enter_async_context(nursery())
        yield Ground(home, postgres_admin_url, settings, template, broker, http, start)


@dataclass(slots=True)
class Replica:
    """One process of order-core, and how to start it anew."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    child: Child
    url: str = ""


@dataclass(slots=True)
class Scene:
    ground: Ground
    name: str
    database_url: str
    pool: asyncpg.Pool
    producer: AIOKafkaProducer
    order_nos: list[str] = field(default_factory=list[str])
    replicas: list[Replica] = field(default_factory=list[Replica])
    ends: dict[TopicPartition, int] = field(default_factory=dict[TopicPartition, int])

    @property
    def prefix(self) -> str:
        return f"{self.name}."

    async def cast(self, reserved: Sequence[bool]) -> None:
        """An order number for each; those that are not `reserved` are nobody's."""
        goods, receiver = Item(sku="S", name="Sofa", quantity=1), Receiver(name="n", phone="1", region="r", address="a")
        now = datetime.now(UTC)
        async with self.pool.acquire() as conn, conn.transaction():
            for n, known in enumerate(reserved):
                wish = Reservation("campaign", str(n), AMOUNT, "CNY", (goods,), receiver)
                self.order_nos.append((await reserve(conn, wish, now=now))[0] if known else new_order_no(now))

    async def core(
        self, number: int = 0, *, failpoint: str = "", static: bool = True, postgres_url: str | None = None
    ) -> Replica:
        """Start one more `order-core serve`. `static`: it comes back to its partitions without a rebalance."""
        port = self.ground.home.port(f"{self.name}-core-{number}")
        env = self._env() | {
            "ORDERLOOP_POSTGRES_URL": postgres_url or self.database_url,
            "ORDERLOOP_KAFKA_SESSION_SECONDS": str(SESSION_SECONDS),
            "ORDERLOOP_KAFKA_INSTANCE_ID": f"core-{number}" if static else "",
            "ORDERLOOP_REDIS_URL": "redis://127.0.0.1:1/0",  # nobody: only a shield is lost
            "ORDERLOOP_HTTP_PORT": str(port),
            "ORDERLOOP_OUTBOX_RELAY": "external",
        }
        return await self._start(f"core-{number}", ("serve",), env, failpoint, f"http://127.0.0.1:{port}")

    async def relay(self, *, failpoint: str = "") -> Replica:
        return await self._start("relay", ("relay",), self._env(), failpoint, "")

    async def again(self, replica: Replica) -> None:
        """The same process once more, and nothing fails in it any more."""
        replica.child = await self.ground.start(replica.argv, replica.env, self._log(replica.name))

    def _env(self) -> dict[str, str]:
        return {
            "ORDERLOOP_POSTGRES_URL": self.database_url,
            "ORDERLOOP_KAFKA_BOOTSTRAP": self.ground.kafka.bootstrap,
            "ORDERLOOP_KAFKA_TOPIC_PREFIX": self.prefix,
            "ORDERLOOP_LOG_LEVEL": "WARNING",
        }

    async def _start(
        self, name: str, argv: tuple[str, ...], env: Mapping[str, str], failpoint: str, url: str
    ) -> Replica:
        child = await self.ground.start(argv, {**env, "FAILPOINT": failpoint}, self._log(name))
        replica = Replica(name, argv, env, child, url)
        self.replicas.append(replica)
        return replica

    def _log(self, name: str) -> Path:
        return self.ground.home.log / f"{self.name}-{name}.log"

    async def tell(self, told: Sequence[tuple[int, Told]]) -> None:
        """Publish records about orders, and remember how far the group has to come."""
        sent = []
        for life, one in told:
            order_no = self.order_nos[life]
            value, headers = one.record(order_no)
            key = order_no.encode()
            sent.append(await self.producer.send(self.prefix + one.topic, value, key=key, headers=headers))
        for record in await asyncio.gather(*sent):
            at = TopicPartition(record.topic, record.partition)
            self.ends[at] = max(self.ends.get(at, 0), record.offset + 1)

    async def command(self, life: int, route: str) -> str | None:
        """Until it is accepted, by whichever process answers. A refusal, in one sentence."""
        path = f"/v1/orders/{self.order_nos[life]}/{route}"
        body = {"reason": "sent back"} if route == "refund" else {}
        urls = itertools.cycle([replica.url for replica in self.replicas if replica.url])
        deadline = time.monotonic() + _COMMAND_SECONDS
        while time.monotonic() < deadline:
            try:
                answer = await self.ground.http.post(
                    next(urls) + path, json=body, headers={"Idempotency-Key": f"{route}-{life:06d}"}
                )
            except httpx.TransportError:
                await asyncio.sleep(_AGAIN_SECONDS)
                continue
            if answer.status_code == 202:
                return None
            if answer.status_code < 500 and answer.json().get("type", "").rpartition("/")[2] != "still-running":
                return f"order {self.order_nos[life]}: {route} was answered {answer.status_code} {answer.text[:200]}"
            await asyncio.sleep(_AGAIN_SECONDS)
        return f"order {self.order_nos[life]}: {route} was not answered for {_COMMAND_SECONDS:.0f} s"

    async def settled(self) -> bool:
        """Whether everything told is taken in, and everything that came of it is published."""
        if not await self.taken_in(self.ends):
            return False
        try:
            return not await self.pool.fetchval("select exists (select from outbox)")
        except Exception as error:
            if not is_transient(error):
                raise
            return False

    async def taken_in(self, ends: Mapping[TopicPartition, int]) -> bool:
        """Whether the group has come so far."""
        try:
            offsets = await self.ground.broker.list_consumer_group_offsets(self.prefix + _GROUP)
        except Exception as error:
            if not is_transient(error):
                raise
            return False
        return all(at in offsets and offsets[at].offset >= end for at, end in ends.items())

    async def ready(self, replica: Replica) -> bool:
        """Whether it has the database and partitions."""
        try:
            return (await self.ground.http.get(f"{replica.url}/readyz")).is_success
        except httpx.TransportError:
            return False

    async def books(self) -> dict[str, tuple[str | None, int, list[str], int]]:
        """Each order's status, version, anomalies and waiting events."""
        rows = await self.pool.fetch(_BOOKS, self.order_nos)
        return {row["order_no"]: (row["status"], row["version"], row["anomalies"], row["waiting"]) for row in rows}

    async def until(self, condition: Callable[[], Awaitable[bool]], *, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while not await condition():
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(_LOOK_SECONDS)
        return True


@asynccontextmanager
async def scene(ground: Ground, name: str) -> AsyncGenerator[Scene]:
    """Everything in it is gone afterwards, its processes by SIGKILL."""
    admin_url = ground.postgres_admin_url
    url = databases.url_for(admin_url, role="order_core_app", database=name)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(databases.drop_databases, admin_url, [name])
        topics = [f"{name}.{topic}" for topic in CONTRACT]
        stack.push_async_callback(ground.broker.delete_topics, topics)
        await asyncio.gather(
            databases.create_database(admin_url, "order_core", name, template=ground.template),
            create_topics(ground.kafka.bootstrap, f"{name}.", ALL, partitions=PARTITIONS),
            create_topics(ground.kafka.bootstrap, f"{name}.", DEAD_LETTERS, partitions=1),
        )
        pool = await stack.enter_async_context(asyncpg.create_pool(url, min_size=0, max_size=2))
        producer = kafka.producer(ground.kafka, client_id="campaign")  # one for all would ask for topics long gone
        await stack.enter_async_context(kafka.producing(producer))
        made = Scene(ground, name, url, pool, producer)
        try:
            yield made
        finally:
            await asyncio.gather(*(replica.child.end(signal.SIGKILL) for replica in made.replicas))
