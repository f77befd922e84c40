"""A small world in which everything has happened properly: what the invariant checker must find nothing wrong with.

Real order-core consumer, relays and settlement on real topics, payment-callback and the simulators as processes.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import asyncpg
import httpx
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.structs import OffsetAndMetadata

from order_core import consumers
from order_core.apply import apply
from order_core.orders import Incoming
from orderloop import postgres
from orderloop.clock import SystemClock
from orderloop.consume import Consumer
from orderloop.envelope import Envelope
from orderloop.health import Health
from orderloop.outbox import Relay
from orderloop.settings import KafkaSettings, OutboxSettings, PostgresSettings
from orderloop.topics import PICKUP_DETECTED
from orderloop_lab.invariants import Broker, Report, World, check
from orderloop_lab.topics import CONTRACT
from settlement.banks.generic import GenericBank
from settlement.consumers import consumer as settlement_consumer
from settlement.instruct import Instructor, Pace
from settlement.split import Receiver, SplitRule
from tests.support.bank import SECRET
from tests.support.databases import Database
from tests.support.orders import AMOUNT, NOW, confirmed, labelled, reserved, resettled, shipped, tracked
from tests.support.payment_callback import Process
from tests.support.simulator import SimulatorProcess

NONSENSE = b"nonsense"  # the key of a record that nobody can decode
PARTITIONS = 2  # enough to have orders apart, and made sooner than twelve
RULE = SplitRule(Receiver("platform", "6222-platform"), 60, (Receiver("merchant", "6222-merchant"),))
_PARCEL = """
    insert into shipment (order_no, shipment_id, warehouse, express_code, status, requested_at, finished_at)
    values ('{order_no}', '{order_no}_S1', 'suzhou', 'zto', 'accepted', now(), now());
    insert into parcel (order_no, express_code, waybill_no, shipment_id, warehouse, label_at, status, status_at)
    values ('{order_no}', 'zto', '7312', '{order_no}_S1', 'suzhou', now(), 'delivered', now())
"""
ORDERS = ("completed", "paid", "alipay", "outside", "pending", "early", "underpaid")


@dataclass(frozen=True, slots=True)
class Sent:
    """A record, as it was or is to be published."""

    topic: str  # without prefix
    partition: int
    key: bytes | None
    value: bytes
    headers: Sequence[tuple[str, bytes]]


Rewrite = Callable[[list[Sent]], list[Sent]]


@dataclass
class CleanWorld:
    databases: Mapping[str, Database]
    bootstrap: str
    prefix: str
    simulators: Mapping[str, SimulatorProcess]
    orders: dict[str, str] = field(default_factory=dict[str, str])  # by what happened to them
    watched: list[Report] = field(default_factory=list[Report])  # by looking while it all happened

    @property
    def world(self) -> World:
        return World(
            {name: database.admin_url for name, database in self.databases.items()},
            Broker(self.bootstrap, self.prefix),
            {name: simulator.url for name, simulator in self.simulators.items()},
        )

    async def build(self, payment_callback: Process) -> None:
        """`payment_callback`: not started, with this world's Kafka; the channel notifies it."""
        await create_small_topics(self.bootstrap, self.prefix)
        async with payment_callback, self._services(), self._watching():
            await self._tell_the_story()
            await self._until("everything is published", self._published)
            await self._until("everything is taken in", self._taken_in)
        await self._leave_something_staged()

    async def _tell_the_story(self) -> None:
        conn = await asyncpg.connect(self.databases["order_core"].app_url)
        try:
            for what in ORDERS:
                self.orders[what] = await reserved(conn, what)
            await self._send(labelled(self.orders["early"], "EARLY1"), source="/logistics-poller")
            self._pay("completed", faults={"forge": 1, "duplicates": 1})
            self._pay("paid")
            self._pay("outside")
            self._pay("underpaid", amount_fen=1)
            wechat, wms = self.simulators["wechat"], self.simulators["wms"]
            for route in ("/sim/forge", "/sim/probe"):
                wechat.tell(route, out_trade_no=self.orders["pending"], amount_fen=AMOUNT)
            self._pay("alipay", channel="alipay")
            self._pay("pending", channel="alipay", faults={"forge": 1})  # and the genuine one comes much later
            echo = {"event_type": "ECHO", "original_type": "echo", "plaintext": {"echo_message": "hello"}}
            wechat.tell("/sim/notice", about="echo", **echo)
            await self._reach(completed="paid", paid="paid", alipay="paid", outside="paid")
            await self._apply(conn, shipped(self.orders["completed"]))
            order = {"order_no": self.orders["completed"], "shipment_id": f"{self.orders['completed']}_S1"}
            goods = {"warehouse": "suzhou", "express_code": "zto", "items": [{}], "receiver": {"phone": "1"}}
            key = {"Idempotency-Key": order["shipment_id"]}
            wms.http.post("/outbound", json=order | goods, headers=key).raise_for_status()
            await self._send(labelled(self.orders["completed"]), source="/logistics-poller")
            await self._send(tracked(self.orders["completed"]), source="/logistics-poller")
            await self._send(labelled(self.orders["outside"], "OUT1"), source="/wms-of-a-friend", event_id="1")
            await self._publish(Sent(PICKUP_DETECTED, 0, NONSENSE, b"{", ()))
            await self._reach(completed="delivered", outside="shipped")
            # The bank refuses, a person asks again: two attempts, one payment.
            self.simulators["bank"].tell("/sim/faults", order_no=self.orders["completed"], outcome="failed")
            await self._apply(conn, confirmed(self.orders["completed"]))
            await self._until("the settlement is refused", self._refused)
            await self._apply(conn, resettled(self.orders["completed"]))
            await self._reach(completed="completed")
        finally:
            await conn.close()

    async def _leave_something_staged(self) -> None:
        """Changes that no relay has seen: a checker must find them in the outbox."""
        await self._note_the_parcel()
        conn = await asyncpg.connect(self.databases["order_core"].app_url)
        try:
            self.orders["fresh"] = await reserved(conn, "fresh")
            await self._apply(conn, shipped(self.orders["paid"]))
        finally:
            await conn.close()

    async def _note_the_parcel(self) -> None:
        """What logistics-poller would have in its books of what was told in its name."""
        conn = await asyncpg.connect(self.databases["logistics"].app_url)
        try:
            await conn.execute(_PARCEL.format(order_no=self.orders["completed"]))
        finally:
            await conn.close()

    @asynccontextmanager
    async def _services(self) -> AsyncGenerator[None]:
        kafka = KafkaSettings.model_validate({"bootstrap": self.bootstrap, "topic_prefix": self.prefix})
        urls = {name: PostgresSettings.model_validate({"url": db.app_url}) for name, db in self.databases.items()}
        relays = [
            Relay(
                source=f"/{name.replace('_', '-')}",
                postgres_settings=urls[name],
                kafka_settings=kafka,
                settings=OutboxSettings.model_validate({}),
            )
            for name in ("order_core", "settlement")
        ]
        async with (
            postgres.pool(urls["order_core"], application_name="order-core") as orders,
            postgres.pool(urls["settlement"], application_name="settlement") as settlements,
            httpx.AsyncClient(base_url=self.simulators["bank"].url, trust_env=False) as client,
        ):
            core = Consumer(
                kafka,
                group="order-core",
                topics=consumers.TOPICS,
                handle=consumers.handler(orders, SystemClock()),
                pool=orders,
                health=Health(),
            )
            bank = GenericBank(client, secret=SECRET.encode(), timeout_seconds=5, clock=SystemClock())
            second, hour = timedelta(seconds=1), timedelta(hours=1)
            pace = Pace(lease=60 * second, first_query=second, longest_query=hour, resend_within=hour, calls_at_once=4)
            instructor = Instructor(
                settlements, bank, accounts=RULE.accounts, clock=SystemClock(), pace=pace, health=Health()
            )
            requests = settlement_consumer(kafka, pool=settlements, rule=RULE, wake=instructor.wake, health=Health())
            async with running(core.run, instructor.run, requests.run, *(relay.run for relay in relays)):
                yield

    @asynccontextmanager
    async def _watching(self) -> AsyncGenerator[None]:
        """Checks again and again while everything moves."""

        async def watch(stop: asyncio.Event) -> None:
            while not stop.is_set():
                self.watched.append(await check(self.world))

        async with running(watch):
            yield

    def _pay(
        self, what: str, *, channel: str = "wechat", amount_fen: int = AMOUNT, faults: Mapping[str, Any] | None = None
    ) -> None:
        order = {"out_trade_no": self.orders[what], "amount_fen": amount_fen, "faults": dict(faults or {})}
        self.simulators[channel].tell("/sim/pay", **order)

    async def _apply(self, conn: asyncpg.Connection, command: Incoming) -> None:
        async with conn.transaction():
            await apply(conn, [command], now=NOW)

    async def _send(self, event: Incoming, *, source: str, event_id: str | None = None) -> None:
        envelope = Envelope(event_id or event.event_id, source, event.type, event.occurred_at, event.order_no)
        body: Any = event.body
        partition = sum(event.order_no.encode()) % PARTITIONS
        await self._publish(Sent(event.type, partition, event.order_no.encode(), body.encode(), envelope.headers()))

    async def _publish(self, *records: Sent) -> None:
        await publish(self.bootstrap, self.prefix, records)

    async def _reach(self, **statuses: str) -> None:
        async def reached() -> bool:
            rows = await self._fetch("order_core", "select order_no, status from orders")
            known = {row["order_no"]: row["status"] for row in rows}
            return all(known[self.orders[what]] == status for what, status in statuses.items())

        await self._until(f"orders are {statuses}", reached)

    async def _refused(self) -> bool:
        return bool(await self._fetch("order_core", "select from instruction where state = 'failed'"))

    async def _published(self) -> bool:
        left = [await self._fetch(name, "select 1 from outbox") for name in self.databases]
        notices = self.simulators["wechat"].read("/sim/ledger")["notices"]
        return not any(left) and all(notice["state"] == "acknowledged" for notice in notices)

    async def _taken_in(self) -> bool:
        ends = await offsets(self.bootstrap, [self.prefix + topic for topic in consumers.TOPICS])
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
        await admin.start()
        committed = await admin.list_consumer_group_offsets(f"{self.prefix}order-core")
        await admin.close()
        return all(end == 0 or (one in committed and committed[one].offset == end) for one, end in ends.items())

    async def _fetch(self, database: str, query: str) -> list[asyncpg.Record]:
        conn = await asyncpg.connect(self.databases[database].admin_url)
        try:
            return await conn.fetch(query)
        finally:
            await conn.close()

    async def _until(self, what: str, holds: Callable[[], Awaitable[bool]]) -> None:
        try:
            async with asyncio.timeout(60):
                while True:
                    if await holds():
                        return
                    await asyncio.sleep(0.05)  # between two looks at other processes
        except TimeoutError:
            raise TimeoutError(f"never: {what}") from None

    async def copied_topics(self, prefix: str, rewrite: Rewrite, *, committed: bool = True) -> None:
        """The same records under another prefix, except for what `rewrite` makes of them.

        `committed`: order-core's group has taken in all of them; otherwise only what it has taken in here.
        """
        records = await read_topics(self.bootstrap, self.prefix)
        await create_small_topics(self.bootstrap, prefix, sorted({record.topic for record in records}))
        here, there = self.prefix.encode(), prefix.encode()
        moved = [
            replace(record, headers=[(name, value.replace(here, there)) for name, value in record.headers])
            for record in rewrite(records)
        ]
        await publish(self.bootstrap, prefix, moved)
        before = await offsets(self.bootstrap, [self.prefix + topic for topic in consumers.TOPICS])
        ends = {
            TopicPartition(prefix + at.topic[len(self.prefix) :], at.partition): end
            for at, end in before.items()
            if end
        }
        if committed:
            ends = await offsets(self.bootstrap, sorted({partition.topic for partition in ends}))
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self.bootstrap, group_id=f"{prefix}order-core", enable_auto_commit=False
        )
        await consumer.start()
        consumer.assign(list(ends))
        await consumer.commit({partition: OffsetAndMetadata(end, "") for partition, end in ends.items()})
        await consumer.stop()


@asynccontextmanager
async def running(*jobs: Callable[[asyncio.Event], Awaitable[None]]) -> AsyncGenerator[None]:
    """Until the block ends; an error of a job is the block's."""
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for job in jobs:
            group.create_task(_awaited(job(stop)))
        try:
            yield
        finally:
            stop.set()


async def _awaited(job: Awaitable[None]) -> None:
    """A job that something inside it cancels would end in silence, as a task group takes it for a wish."""
    try:
        await job
    except asyncio.CancelledError as error:
        if (task := asyncio.current_task()) is not None and not task.cancelling():
            raise RuntimeError("a job was cancelled by something within it") from error
        raise


async def create_small_topics(bootstrap: str, prefix: str, names: Sequence[str] = CONTRACT) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    await admin.create_topics([NewTopic(prefix + name, PARTITIONS, replication_factor=1) for name in names])
    await admin.close()


async def publish(bootstrap: str, prefix: str, records: Sequence[Sent]) -> None:
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, enable_idempotence=True) as producer:
        for one in records:
            await producer.send(
                prefix + one.topic, one.value, key=one.key, partition=one.partition, headers=list(one.headers)
            )


async def offsets(bootstrap: str, topics: Sequence[str], partitions: int = PARTITIONS) -> dict[TopicPartition, int]:
    """Where the topics end."""
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap)
    await consumer.start()
    try:
        every = [TopicPartition(name, n) for name in topics for n in range(partitions)]
        consumer.assign(every)  # learns of all topics at once
        return await consumer.end_offsets(every)
    finally:
        await consumer.stop()


async def read_topics(bootstrap: str, prefix: str, partitions: int = PARTITIONS) -> list[Sent]:
    """Everything, each partition in its order."""
    found = await offsets(bootstrap, [prefix + name for name in CONTRACT], partitions)
    ends = {at: end for at, end in found.items() if end}
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    records: list[Sent] = []
    try:
        consumer.assign(list(ends))
        while len(records) < sum(ends.values()):
            for at, polled in (await consumer.getmany(timeout_ms=1000)).items():
                topic = at.topic[len(prefix) :]
                records += [Sent(topic, at.partition, r.key, r.value or b"", r.headers) for r in polled]
    finally:
        await consumer.stop()
    return records
