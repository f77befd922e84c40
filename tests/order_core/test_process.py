"""order-core as it really runs, killed at every durable step between Kafka's bytes and the committed offset."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable

import asyncpg
import pytest
from aiokafka import AIOKafkaProducer

from order_core.orders import Incoming
from orderloop.envelope import Envelope
from orderloop.events import Event
from orderloop_lab.invariants import World, check
from tests.support.databases import Database
from tests.support.orders import NOW, labelled, paid, picked_up, reserved, tracked

STEPS = ("order-core.after_poll", "order-core.after_claim", "order-core.after_lock", "order-core.before_commit")
AFTER = ("order-core.after_commit", "order-core.before_offset_commit")


class Process:
    """A member that comes back under its own name: nobody waits for its predecessor's session to end."""

    def __init__(self, bootstrap: str, prefix: str, environ: dict[str, str]) -> None:
        self._bootstrap = bootstrap
        self._prefix = prefix
        self._environ = environ
        self._running: subprocess.Popen[bytes] | None = None

    def start(self, **environ: str) -> None:
        self._running = subprocess.Popen(
            [sys.executable, "-m", "order_core", "serve"], env=os.environ | self._environ | environ
        )

    async def died(self) -> bool:
        """Whether it was killed, as SIGKILL kills, within a minute."""
        assert self._running is not None
        return await asyncio.to_thread(self._running.wait, 60) == -9

    async def hear(self, *events: Incoming) -> None:
        async with AIOKafkaProducer(bootstrap_servers=self._bootstrap) as producer:
            for event in events:
                assert isinstance(event.body, Event)
                headers = Envelope(event.event_id, event.actor, event.type, NOW, event.order_no).headers()
                topic, key = self._prefix + event.type, event.order_no.encode()
                await producer.send_and_wait(topic, event.body.encode(), key=key, headers=headers)

    def kill(self) -> None:
        if self._running is not None:
            self._running.kill()
            self._running.wait()


@pytest.fixture
async def process(
    order_core: Database,
    kafka_bootstrap: str,
    topic_prefix: str,
    create_topics: Callable[..., Awaitable[None]],
    unused_tcp_port_factory: Callable[[], int],
) -> AsyncIterator[Process]:
    await create_topics(topic_prefix)
    process = Process(
        kafka_bootstrap,
        topic_prefix,
        {
            "ORDERLOOP_POSTGRES_URL": order_core.app_url,
            "ORDERLOOP_KAFKA_BOOTSTRAP": kafka_bootstrap,
            "ORDERLOOP_KAFKA_TOPIC_PREFIX": topic_prefix,
            "ORDERLOOP_KAFKA_INSTANCE_ID": "order-core-0",
            "ORDERLOOP_REDIS_URL": f"redis://127.0.0.1:{unused_tcp_port_factory()}",  # nobody: only a shield is lost
            "ORDERLOOP_HTTP_PORT": str(unused_tcp_port_factory()),
            "ORDERLOOP_LOG_LEVEL": "ERROR",
        },
    )
    yield process
    process.kill()


@pytest.mark.parametrize("failpoint", [*STEPS, *AFTER])
async def test_killed_at_any_step_every_event_is_applied_once(
    process: Process, conn: asyncpg.Connection, order_core: Database, failpoint: str
) -> None:
    """An offset that is committed before the database, or a claim that outlives its effect, would lose the payment."""
    order_no = await reserved(conn)
    story = (paid(order_no), labelled(order_no), picked_up(order_no), tracked(order_no))
    await process.hear(*story, *story)  # everything twice, as Kafka may bring it

    process.start(FAILPOINT=f"{failpoint}:kill@1")
    assert await process.died()
    assert (await status(conn) == "pending") == (failpoint in STEPS)
    process.start()
    async with asyncio.timeout(60):
        while True:
            if await status(conn) == "delivered":
                break
            await asyncio.sleep(0.1)

    assert await conn.fetchval("select count(*) from order_log") == 5
    report = await check(World({"order_core": order_core.app_url}))
    assert report.violations == []


async def status(conn: asyncpg.Connection) -> str:
    return await conn.fetchval("select status from orders")
