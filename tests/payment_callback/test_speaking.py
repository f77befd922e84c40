"""The speaker as it really runs: a process between Kafka and the channels, killed between a call and its commit."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import orjson
import pytest
import pytest_asyncio

from orderloop.events import BY_TOPIC, Cause, CloseRequested, Event, OrderChanged, RefundRequested
from orderloop.settings import KafkaSettings
from orderloop_lab.home import free_port
from orderloop_lab.simulators.wechat_keys import MCHID, Keys
from tests.support.databases import Database
from tests.support.kafka import outgoing, produce, until
from tests.support.merchant import simulator
from tests.support.payment_callback import CALLBACK, Process
from tests.support.simulator import SimulatorProcess

ORDER_NO = "261122093015ABCDEFGH1234"


@pytest.fixture
def wechat(keys: Keys) -> Iterator[SimulatorProcess]:
    with simulator("wechat", keys.folder.parent, SIM_TIME_FACTOR="100000") as process:
        yield process


class World:
    def __init__(self, db: Database, service: Process, wechat: SimulatorProcess, kafka: KafkaSettings) -> None:
        self.db = db
        self.service = service
        self.wechat = wechat
        self._kafka = kafka

    async def say(self, *events: tuple[Event, str]) -> None:
        """As order-core."""
        await produce(self._kafka, [outgoing(event, event_id, source="/order-core") for event, event_id in events])

    async def told(self, event_id: str) -> dict[str, Any]:
        """Waits until it lies in the outbox."""
        query = "select body from outbox where event_id like $1"

        async def there() -> bool:
            return bool(await self.fetch(query, event_id))

        await until(there)
        return orjson.loads((await self.fetch(query, event_id))[0]["body"])

    async def fetch(self, query: str, *values: object) -> list[asyncpg.Record]:
        conn = await asyncpg.connect(self.db.owner_url)
        try:
            return await conn.fetch(query, *values)
        finally:
            await conn.close()


@pytest_asyncio.fixture
async def world(  # noqa: PLR0917
    database: Callable[[str], Database],
    keys: Keys,
    wechat: SimulatorProcess,
    kafka_bootstrap: str,
    topic_prefix: str,
    create_topics: Callable[..., Awaitable[None]],
) -> AsyncIterator[World]:
    """The relay is left out, so that what is told can be read in the outbox."""
    await create_topics(topic_prefix)
    db = database("payment_callback")
    service = Process(
        db,
        keys,
        ORDERLOOP_KAFKA_BOOTSTRAP=kafka_bootstrap,
        ORDERLOOP_KAFKA_TOPIC_PREFIX=topic_prefix,
        ORDERLOOP_KAFKA_INSTANCE_ID="speaker",  # the same member comes back after a kill
        ORDERLOOP_OUTBOX_RELAY="external",
        ORDERLOOP_WECHAT_API_BASE_URL=wechat.url,
        ORDERLOOP_EVIDENCE_TIME_FACTOR="1000",
        ORDERLOOP_EVIDENCE_GRACE_SECONDS="0",
    )
    settings = KafkaSettings.model_validate({"bootstrap": kafka_bootstrap, "topic_prefix": topic_prefix})
    try:
        yield World(db, service, wechat, settings)
    finally:
        service.kill()
        await service.http.aclose()


def changed(order_no: str, version: int, before: str | None, after: str, *, at: datetime | None = None) -> Event:
    return OrderChanged(
        order_no=order_no,
        version=version,
        from_=before,
        to=after,
        cause=Cause(event_id=f"{order_no}:{version}", type="test"),
        at=at or datetime.now(UTC) - timedelta(minutes=5),
        actor="test",
        amount_fen=9900,
        channel="wechat",
    )


def close() -> tuple[Event, str]:
    return CloseRequested(order_no=ORDER_NO, channel="wechat", amount_fen=9900), f"{ORDER_NO}:close:1"


async def test_pending_orders_are_awaited_until_they_are_no_longer(world: World) -> None:
    stays, goes = "261122093015ABCDEFGH0001", "261122093015ABCDEFGH0002"
    for order_no in (stays, goes):
        world.wechat.tell("/sim/prepay", out_trade_no=order_no, amount_fen=9900)
    now = datetime.now(UTC)
    await world.say(
        (changed(stays, 1, None, "pending", at=now), "a"),
        (changed(goes, 1, None, "pending", at=now), "b"),
        (changed(stays, 2, "shipped", "delivered"), "c"),  # of no interest
        (changed(goes, 2, "pending", "paid"), "d"),
        (changed(goes, 1, None, "pending", at=now), "b"),  # once more, as Kafka may
        (changed(goes, 2, "pending", "paid"), "d"),
        close(),
    )

    await world.service.start()
    await world.told(f"{ORDER_NO}:close:1:result")

    assert [row["order_no"] for row in await world.fetch("select order_no from awaited_payment")] == [stays]


async def test_a_lost_callback_is_found_from_order_changed_alone_and_counted_in_the_metrics(world: World) -> None:
    world.wechat.tell("/sim/pay", out_trade_no=ORDER_NO, amount_fen=9900)
    await world.say((changed(ORDER_NO, 1, None, "pending"), f"{ORDER_NO}:1"))

    await world.service.start()
    shown = await world.told("wechat:%:callback_missing")
    await world.service.stop()
    await world.service.start()

    async def counted() -> bool:
        metrics = (await world.service.http.get("/metrics")).text
        return 'orderloop_callbacks_missing{channel="wechat",policy="report"} 1.0' in metrics

    await until(counted)
    assert (shown["order_no"], shown["money_fen"]) == (ORDER_NO, 9900)
    assert await world.fetch("select from callback_memory where event_id like '%:paid'") == []


@pytest.mark.parametrize("moment", ["before_close", "after_close", "before_errand_commit"])
async def test_killed_around_a_close_it_is_answered_once_and_rightly(world: World, moment: str) -> None:
    world.wechat.tell("/sim/prepay", out_trade_no=ORDER_NO, amount_fen=9900)
    await world.say(close())

    await world.service.start(FAILPOINT=f"payment_callback.{moment}:kill")
    assert await world.service.killed_by_itself()
    assert await world.fetch("select from outbox") == []
    await world.fetch("update errand_timer set due_at = now()")  # the lease of the dead, run out
    await world.service.start(FAILPOINT="")
    result = await world.told(f"{ORDER_NO}:close:1:result")

    assert result["result"] == "closed"
    assert len(await world.fetch("select from outbox")) == 1


@pytest.mark.parametrize("moment", ["before_refund", "after_refund", "before_errand_commit"])
async def test_killed_around_a_refund_the_money_goes_back_once_and_is_told_once(world: World, moment: str) -> None:
    number = world.wechat.tell("/sim/pay", out_trade_no=ORDER_NO, amount_fen=9900)["transaction"]["transaction_id"]
    asked = RefundRequested(
        order_no=ORDER_NO,
        channel="wechat",
        mchid=MCHID,
        transaction_id=number,
        out_refund_no="R1",
        refund_fen=300,
        total_fen=9900,
        reason="too large",
    )
    await world.say((asked, "R1:requested"), (asked, "R1:requested"))

    await world.service.start(FAILPOINT=f"payment_callback.{moment}:kill")
    assert await world.service.killed_by_itself()
    await world.fetch("update errand_timer set due_at = now()")
    await world.service.start(FAILPOINT="")
    told = await world.told("wechat:%:refunded")

    assert told["refund_fen"] == 300
    assert len(world.wechat.read("/sim/ledger")["refunds"]) == 1
    assert len(await world.fetch("select from outbox")) == 1


async def test_a_refunds_notice_and_the_answer_to_our_question_are_one_fact(world: World, keys: Keys) -> None:
    """The simulator notifies at once and answers PROCESSING first, so both ways are taken."""
    number = world.wechat.tell("/sim/pay", out_trade_no=ORDER_NO, amount_fen=9900)["transaction"]["transaction_id"]
    world.wechat.kill()
    world.wechat._environ["SIM_NOTIFY_URL"] = world.service.url + CALLBACK  # pyright: ignore[reportPrivateUsage]
    world.wechat.start()
    asked = RefundRequested(
        order_no=ORDER_NO,
        channel="wechat",
        mchid=MCHID,
        transaction_id=number,
        out_refund_no="R1",
        refund_fen=300,
        total_fen=9900,
        reason="too large",
    )
    await world.say((asked, "R1:requested"))

    await world.service.start()
    await world.told("wechat:%:refunded")

    async def both_ways() -> bool:
        noticed = await world.fetch("select from callback_log where shape = 'refund'")
        return bool(noticed) and not await world.fetch("select from errand_timer")

    await until(both_ways)
    told = await world.fetch("select topic from outbox where topic like '%refund%'")
    assert [BY_TOPIC[row["topic"]].__name__ for row in told] == ["RefundNotified"]


async def test_killed_between_a_look_and_its_commit_the_missing_callback_is_shown_once(world: World) -> None:
    world.wechat.tell("/sim/pay", out_trade_no=ORDER_NO, amount_fen=9900)
    await world.say((changed(ORDER_NO, 1, None, "pending"), f"{ORDER_NO}:1"))

    await world.service.start(FAILPOINT="payment_callback.before_look_commit:kill")
    assert await world.service.killed_by_itself()
    assert await world.fetch("select from callback_missing") == []
    await world.fetch("update awaited_payment set due_at = now()")
    await world.service.start(FAILPOINT="")
    await world.told("wechat:%:callback_missing")

    assert len(await world.fetch("select from callback_missing")) == 1


async def test_without_kafka_callbacks_are_taken_and_it_is_ready(
    database: Callable[[str], Database], keys: Keys
) -> None:
    async with Process(database("payment_callback"), keys, ORDERLOOP_KAFKA_BOOTSTRAP=f"127.0.0.1:{free_port()}") as one:
        assert (await one.http.get("/readyz")).json() == {"postgres": "ok", "wechat keys": "ok"}
        assert (await one.http.get("/livez")).status_code == 200
