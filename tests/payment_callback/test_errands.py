"""Closes and refunds, from order-core's wish to the channel's word: real database, real simulators, lost answers."""

from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import orjson
import pytest
import pytest_asyncio

from orderloop import postgres
from orderloop.clock import SystemClock
from orderloop.events import BY_TOPIC, CloseRequested, Event, RefundRequested
from orderloop.settings import PostgresSettings
from orderloop_lab.simulators import alipay_keys
from orderloop_lab.simulators.wechat_keys import MCHID, Keys
from payment_callback import errand_store
from payment_callback.channels import Question
from payment_callback.errand_store import Errand
from payment_callback.errands import Speaker
from payment_callback.evidence import Policy, Rule
from tests.support.databases import Database
from tests.support.merchant import alipay_gateway, simulator, wechat_gateway
from tests.support.simulator import SimulatorProcess

NOW = datetime(2026, 11, 22, 9, 30, tzinfo=UTC)
ORDER_NO = "261122093015ABCDEFGH1234"
FACTOR = 100_000.0


@pytest.fixture
def wechat(keys: Keys) -> Iterator[SimulatorProcess]:
    with simulator("wechat", keys.folder.parent, SIM_TIME_FACTOR="100000") as process:
        yield process


@pytest.fixture
def alipay_sim(alipay_state: Path) -> Iterator[SimulatorProcess]:
    with simulator("alipay", alipay_state) as process:
        yield process


class Desk:
    """What order-core asks, and what it would hear."""

    def __init__(self, pool: asyncpg.Pool, speaker: Speaker) -> None:
        self.pool = pool
        self.speaker = speaker

    async def ask(self, *errands: Errand) -> int:
        async with self.pool.acquire() as conn, conn.transaction():
            return len(await errand_store.add(conn, errands))

    async def close(self, channel: str | None = "wechat", n: int = 1) -> int:
        event = CloseRequested(order_no=ORDER_NO, channel=channel, amount_fen=9900)
        return await self.ask(errand_store.close(event, f"{ORDER_NO}:close:{n}", NOW, None))

    async def refund(self, channel: str, transaction_id: str, number: str = "R1", amount_fen: int = 300) -> int:
        event = RefundRequested(
            order_no=ORDER_NO,
            channel=channel,
            mchid=MCHID,
            transaction_id=transaction_id,
            out_refund_no=number,
            refund_fen=amount_fen,
            total_fen=9900,
            reason="too large",
        )
        return await self.ask(errand_store.refund(event, NOW, None))

    async def work(self) -> None:
        """Everything that is due, once, whatever its lease."""
        async with self.pool.acquire() as conn:
            await conn.execute("update errand_timer set due_at = now()")
        for errand in await self.speaker.claim(16):
            await self.speaker.make(errand)

    async def told(self) -> list[tuple[str, Event]]:
        rows = await self.pool.fetch("select event_id, topic, body from outbox order by id")
        return [(row["event_id"], BY_TOPIC[row["topic"]].decode(row["body"])) for row in rows]

    async def heard(self, event_id: str) -> dict[str, Any]:
        body = await self.pool.fetchval("select body from outbox where event_id = $1", event_id)
        assert body is not None, await self.told()
        return orjson.loads(body)

    async def open(self) -> int:
        return await self.pool.fetchval("select count(*) from errand_timer")


@pytest_asyncio.fixture
async def pool(database: Callable[[str], Database]) -> AsyncIterator[asyncpg.Pool]:
    settings = PostgresSettings(url=database("payment_callback").app_url)  # type: ignore[arg-type]
    async with postgres.pool(settings, application_name="test") as pool:
        yield pool


@pytest_asyncio.fixture
async def desk(
    pool: asyncpg.Pool, wechat: SimulatorProcess, alipay_sim: SimulatorProcess, keys: Keys, alipay: alipay_keys.Keys
) -> AsyncIterator[Desk]:
    async with httpx.AsyncClient(trust_env=False) as client:
        gateways = [wechat_gateway(client, wechat.url, keys), alipay_gateway(client, alipay_sim.url, alipay)]
        rule = Rule(Policy.REPORT, timedelta())
        yield Desk(pool, Speaker(pool, gateways, rule=rule, clock=SystemClock(), time_factor=FACTOR))


async def test_an_unpaid_order_is_closed_at_the_channel_and_said_to_be(desk: Desk, wechat: SimulatorProcess) -> None:
    wechat.tell("/sim/prepay", out_trade_no=ORDER_NO, amount_fen=9900)
    await desk.close()

    await desk.work()

    result = await desk.heard(f"{ORDER_NO}:close:1:result")
    assert (result["result"], result["channel"]) == ("closed", "wechat")
    assert result["evidence"]["channels"][0]["answer"]["trade_state"] == "CLOSED"
    assert wechat.http.post("/sim/pay", json={"out_trade_no": ORDER_NO, "amount_fen": 9900}).status_code == 409
    assert await desk.open() == 0


async def test_a_paid_order_is_not_closed_and_its_missing_callback_is_shown(
    desk: Desk, wechat: SimulatorProcess
) -> None:
    number = wechat.tell("/sim/pay", out_trade_no=ORDER_NO, amount_fen=9900)["transaction"]["transaction_id"]
    await desk.close()

    await desk.work()

    result = await desk.heard(f"{ORDER_NO}:close:1:result")
    assert (result["result"], result["evidence"]["transaction_id"]) == ("paid", number)
    assert result["evidence"]["amount_fen"] == 9900
    assert (await desk.heard(f"wechat:{number}:callback_missing"))["kind"] == "callback_missing"


async def test_without_a_known_channel_all_are_asked_and_one_payment_decides(
    desk: Desk, wechat: SimulatorProcess, alipay_sim: SimulatorProcess
) -> None:
    wechat.tell("/sim/prepay", out_trade_no=ORDER_NO, amount_fen=9900)
    alipay_sim.tell("/sim/pay", out_trade_no=ORDER_NO, amount_fen=9900)
    await desk.close(channel=None)

    await desk.work()

    result = await desk.heard(f"{ORDER_NO}:close:1:result")
    assert (result["result"], result["channel"]) == ("paid", "alipay")


async def test_a_channel_that_does_not_answer_is_unknown_once_and_asked_until_it_does(
    desk: Desk, wechat: SimulatorProcess
) -> None:
    wechat.tell("/sim/prepay", out_trade_no=ORDER_NO, amount_fen=9900)
    wechat.tell("/sim/api-faults", call="query", fault="later", times=3)
    await desk.close(channel=None)

    for _ in range(4):
        await desk.work()

    assert [event_id for event_id, _ in await desk.told()] == [
        f"{ORDER_NO}:close:1:unknown",
        f"{ORDER_NO}:close:1:result",
    ]
    assert (await desk.heard(f"{ORDER_NO}:close:1:result"))["result"] == "closed"


async def test_a_close_whose_answer_was_lost_is_found_closed(desk: Desk, wechat: SimulatorProcess) -> None:
    wechat.tell("/sim/prepay", out_trade_no=ORDER_NO, amount_fen=9900)
    wechat.tell("/sim/api-faults", call="close", fault="lost")
    await desk.close()

    await desk.work()
    await desk.work()

    assert (await desk.heard(f"{ORDER_NO}:close:1:result"))["result"] == "closed"


async def test_a_channel_without_an_account_stays_unknown(desk: Desk) -> None:
    await desk.close(channel="unionpay")

    await desk.work()

    assert (await desk.heard(f"{ORDER_NO}:close:1:unknown"))["result"] == "unknown"
    assert await desk.open() == 1


async def test_the_same_wish_twice_is_one_errand(desk: Desk) -> None:
    assert [await desk.close(), await desk.close(), await desk.close(n=2)] == [1, 0, 1]


@pytest.mark.parametrize("channel", ["wechat", "alipay"])
@pytest.mark.parametrize("fault", [None, "unreached", "lost", "forged", "later"])
async def test_a_refund_happens_once_whatever_becomes_of_the_answer(
    desk: Desk, wechat: SimulatorProcess, alipay_sim: SimulatorProcess, channel: str, fault: str | None
) -> None:
    sim = wechat if channel == "wechat" else alipay_sim
    paid = sim.tell("/sim/pay", out_trade_no=ORDER_NO, amount_fen=9900)
    number = paid["transaction"]["transaction_id"] if channel == "wechat" else paid["trade"]["trade_no"]
    if fault is not None:
        call = "refund" if channel == "wechat" else "alipay.trade.refund"
        sim.tell("/sim/api-faults", call=call, fault=fault)
    await desk.refund(channel, number)
    await desk.refund(channel, number)

    for _ in range(4):
        await desk.work()

    (refund,) = sim.read("/sim/ledger")["refunds"]
    refund_id = refund["refund_id"] if channel == "wechat" else f"{number}:R1"
    told = await desk.heard(f"{channel}:{refund_id}:refunded")
    assert (told["out_refund_no"], told["refund_status"], told["refund_fen"]) == ("R1", "SUCCESS", 300)
    assert (told["transaction_id"], told["total_fen"]) == (number, 9900)
    assert len(await desk.told()) == 1
    assert await desk.open() == 0


@pytest.mark.parametrize("status", ["ABNORMAL", "CLOSED"])
async def test_a_refund_that_ends_badly_is_told_as_it_ended(desk: Desk, wechat: SimulatorProcess, status: str) -> None:
    number = wechat.tell("/sim/pay", out_trade_no=ORDER_NO, amount_fen=9900)["transaction"]["transaction_id"]
    wechat.tell("/sim/refund-plan", out_refund_no="R1", status=status)
    await desk.refund("wechat", number)

    for _ in range(3):
        await desk.work()

    ((event_id, _),) = await desk.told()
    assert event_id.endswith(f":{status.lower()}")


async def test_a_refused_refund_is_shown_once_and_tried_again_under_its_number(
    desk: Desk, wechat: SimulatorProcess
) -> None:
    number = wechat.tell("/sim/pay", out_trade_no=ORDER_NO, amount_fen=9900)["transaction"]["transaction_id"]
    wechat.tell("/sim/refund-plan", out_refund_no="R1", refuse=True)
    await desk.refund("wechat", number)
    for _ in range(3):
        await desk.work()
    shown = await desk.heard(f"wechat:{number}:R1:refund_refused")

    wechat.tell("/sim/refund-plan", out_refund_no="R1", refuse=False)  # the account was topped up
    for _ in range(3):
        await desk.work()

    assert (shown["kind"], shown["evidence"]["because"], shown["money_fen"]) == ("refund_refused", "NOT_ENOUGH", 300)
    assert [type(event).__name__ for _, event in await desk.told()] == ["AnomalyRaised", "RefundNotified"]


async def test_a_refund_that_stays_unanswered_is_shown_to_a_person_and_asked_for_ever(
    desk: Desk, wechat: SimulatorProcess
) -> None:
    wechat.tell("/sim/api-faults", call="refund", fault="unreached", times=100)
    wechat.tell("/sim/api-faults", call="refund_query", fault="later", times=100)
    number = wechat.tell("/sim/pay", out_trade_no=ORDER_NO, amount_fen=9900)["transaction"]["transaction_id"]
    await desk.refund("wechat", number)

    for _ in range(10):
        await desk.work()

    assert [event_id for event_id, _ in await desk.told()] == [f"wechat:{number}:R1:refund_unanswered"]
    assert await desk.open() == 1


async def test_a_notice_that_only_hints_at_a_refund_is_asked_for_the_single_amount(
    desk: Desk, alipay_sim: SimulatorProcess
) -> None:
    number = alipay_sim.tell("/sim/pay", out_trade_no=ORDER_NO, amount_fen=9900)["trade"]["trade_no"]
    for out_request_no, amount in (("WEB1", 100), ("WEB2", 250)):
        alipay_sim.tell("/sim/refund", out_trade_no=ORDER_NO, out_request_no=out_request_no, refund_fen=amount)
    hints = [Question("alipay", ORDER_NO, number, out_request_no) for out_request_no in ("WEB2", "WEB1", "WEB2")]
    await desk.ask(*(errand_store.refund_look(hint, NOW, None) for hint in hints))

    await desk.work()

    told = {event_id: orjson.loads(event.encode())["refund_fen"] for event_id, event in await desk.told()}
    assert told == {f"alipay:{number}:WEB1:refunded": 100, f"alipay:{number}:WEB2:refunded": 250}


async def test_a_refunds_notice_without_an_amount_is_asked_for_it_under_the_notices_own_id(
    desk: Desk, wechat: SimulatorProcess
) -> None:
    number = wechat.tell("/sim/pay", out_trade_no=ORDER_NO, amount_fen=9900)["transaction"]["transaction_id"]
    refund = wechat.tell("/sim/refund", out_trade_no=ORDER_NO, out_refund_no="WEB1", refund_fen=100)["refund"]
    await desk.ask(errand_store.refund_look(Question("wechat", ORDER_NO, number, "WEB1"), NOW, None))

    await desk.work()

    assert (await desk.heard(f"wechat:{refund['refund_id']}:refunded"))["refund_fen"] == 100


async def test_a_leased_errand_is_nobody_elses_and_a_finished_one_is_finished(desk: Desk) -> None:
    await desk.close()

    (errand,) = await desk.speaker.claim(16)

    assert await desk.speaker.claim(16) == []
    async with desk.pool.acquire() as conn:
        assert await errand_store.finish(conn, errand, "closed")
        assert not await errand_store.finish(conn, errand, "closed")


async def test_two_workers_with_the_same_errand_tell_it_once(desk: Desk, wechat: SimulatorProcess) -> None:
    wechat.tell("/sim/prepay", out_trade_no=ORDER_NO, amount_fen=9900)
    await desk.close()
    (errand,) = await desk.speaker.claim(16)

    await desk.speaker.make(errand)
    await desk.speaker.make(errand)  # its lease had run out, and it was not dead after all

    assert len(await desk.told()) == 1
