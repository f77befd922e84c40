"""No silent repair: what the channel knows and no callback told is shown and counted, and the callback stays news."""

from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import httpx
import orjson
import pytest
import pytest_asyncio

from orderloop import postgres
from orderloop.clock import Clock, SystemClock
from orderloop.events import PaymentNotified
from orderloop.settings import HttpSettings, PostgresSettings
from orderloop_lab.simulators.wechat_keys import Keys
from payment_callback import errand_store
from payment_callback.app import build
from payment_callback.channels.wechat import WeChat
from payment_callback.errand_store import Awaited
from payment_callback.evidence import Lookout, Policy, Rule
from payment_callback.pace import Allowance, plan
from payment_callback.settings import CallbackSettings
from tests.support.databases import Database
from tests.support.merchant import simulator, wechat_gateway
from tests.support.simulator import SimulatorProcess
from tests.support.wechat import send

PLAN = plan(first_minutes=[5, 15, 30], then_minutes=60, time_factor=1)
ORDER_NO = "261122093015ABCDEFGH1234"
OPENID = "oUpF8uMuAJO_M2pxb1Q9zNjWeS6o"


@pytest.fixture
def wechat(keys: Keys) -> Iterator[SimulatorProcess]:
    """All callbacks are lost: nobody listens at the notify URL."""
    with simulator(
        "wechat", keys.folder.parent, SIM_TIME_FACTOR="1", SIM_NOTIFY_URL="http://127.0.0.1:1/lost"
    ) as process:
        yield process


@pytest_asyncio.fixture
async def pool(database: Callable[[str], Database]) -> AsyncIterator[asyncpg.Pool]:
    settings = PostgresSettings(url=database("payment_callback").app_url)  # type: ignore[arg-type]
    async with postgres.pool(settings, application_name="test") as pool:
        yield pool


@pytest_asyncio.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(trust_env=False) as client:
        yield client


class Time:
    """A clock that a test sets."""

    def __init__(self, began: datetime) -> None:
        self.began = self.at = began

    def now(self) -> datetime:
        return self.at


class Watch:
    def __init__(self, pool: asyncpg.Pool, lookout: Lookout) -> None:
        self.pool = pool
        self.lookout = lookout

    async def expect(self, *order_nos: str, channel: str | None = "wechat", since: datetime | None = None) -> None:
        since = since or datetime.now(UTC) - timedelta(minutes=5)
        async with self.pool.acquire() as conn:
            orders = [Awaited(order_no, channel, None, 9900, since, None) for order_no in order_nos]
            await errand_store.await_payments(conn, [(order, datetime.now(UTC)) for order in orders])

    async def look(self) -> int:
        """At everything that is awaited, due or not."""
        async with self.pool.acquire() as conn:
            await conn.execute("update awaited_payment set due_at = now()")
        found = 0
        while orders := await self.lookout.claim(100):
            for order in orders:
                await self.lookout.look(order)
            found += len(orders)
        return found

    async def outbox(self) -> list[tuple[str, dict[str, Any]]]:
        rows = await self.pool.fetch("select event_id, body from outbox order by id")
        return [(row["event_id"], orjson.loads(row["body"])) for row in rows]

    async def awaited(self) -> dict[str, timedelta]:
        """Per order, how long until the next look."""
        rows = await self.pool.fetch("select order_no, due_at - now() as wait from awaited_payment")
        return {row["order_no"]: row["wait"] for row in rows}

    async def missing(self) -> int:
        return await self.pool.fetchval("select count(*) from callback_missing")


def make(  # noqa: PLR0917
    pool: asyncpg.Pool,
    client: httpx.AsyncClient,
    wechat: SimulatorProcess,
    keys: Keys,
    policy: Policy = Policy.REPORT,
    grace: timedelta = timedelta(),
    clock: Clock | None = None,
) -> Watch:
    lookout = Lookout(
        pool,
        [wechat_gateway(client, wechat.url, keys)],
        plan=PLAN,
        rule=Rule(policy, grace),
        allowance=Allowance(10_000),
        clock=clock or SystemClock(),
        time_factor=1,
    )
    return Watch(pool, lookout)


@pytest.fixture
def watch(pool: asyncpg.Pool, client: httpx.AsyncClient, wechat: SimulatorProcess, keys: Keys) -> Watch:
    return make(pool, client, wechat, keys)


# Minutes after the order, on a plan that looks at 5, 15 and 30 minutes and then hourly.
PAID_AT = {"before the first look": 0, "between looks": 7, "at the last of the first looks": 30, "hours later": 200}


async def test_when_every_callback_is_lost_each_payment_shows_at_the_first_look_after_it_and_none_is_repaired(
    pool: asyncpg.Pool, client: httpx.AsyncClient, wechat: SimulatorProcess, keys: Keys, channel: WeChat
) -> None:
    time = Time(datetime.now(UTC))
    watch = make(pool, client, wechat, keys, clock=time)
    paid_at = {
        f"26112209301{n}ABCDEFGH{k:04d}": minutes for n, minutes in enumerate(PAID_AT.values()) for k in range(5)
    }
    unpaid = [f"261122093015ABCDEFGJ{number:04d}" for number in range(5)]
    for order_no in unpaid:
        wechat.tell("/sim/prepay", out_trade_no=order_no, amount_fen=9900)
    await watch.expect(*paid_at, *unpaid, since=time.now())
    transactions: dict[str, dict[str, Any]] = {}

    looks = (5, 15, 30, 90, 150, 210)
    for look, following in zip(looks, (*looks[1:], 270), strict=True):
        for order_no in [one for one, minutes in paid_at.items() if minutes < look and one not in transactions]:
            told = wechat.tell("/sim/pay", out_trade_no=order_no, amount_fen=9900)
            transactions[order_no] = told["transaction"]
        time.at = time.began + timedelta(minutes=look)
        await watch.look()

        told = await watch.outbox()
        assert sorted(body["order_no"] for _, body in told) == sorted(transactions)
        assert {body["kind"] for _, body in told} == {"callback_missing"}
        due = {row["due_at"] for row in await pool.fetch("select due_at from awaited_payment")}
        assert due == {time.began + timedelta(minutes=following)}

    assert len(transactions) == len(paid_at) == await watch.missing()
    assert sorted(await watch.awaited()) == unpaid
    await deliver(pool, channel, keys, *transactions.values())
    await deliver(pool, channel, keys, *transactions.values())
    applied = [event_id for event_id, _ in await watch.outbox() if event_id.endswith(":paid")]
    assert sorted(applied) == sorted(f"wechat:{one['transaction_id']}:paid" for one in transactions.values())


async def test_the_evidence_is_the_channels_signed_answer_without_the_payer(
    watch: Watch, wechat: SimulatorProcess
) -> None:
    number = wechat.tell("/sim/pay", out_trade_no=ORDER_NO, amount_fen=9900)["transaction"]["transaction_id"]
    await watch.expect(ORDER_NO)

    await watch.look()

    ((event_id, body),) = await watch.outbox()
    assert event_id == f"wechat:{number}:callback_missing"
    assert body["money_fen"] == 9900
    assert body["evidence"]["signed"] is True
    assert {"signature", "serial", "timestamp", "nonce", "body_sha256"} <= body["evidence"].keys()
    assert OPENID not in orjson.dumps(body).decode()
    stored = await watch.pool.fetchval("select evidence::text from callback_missing")
    assert OPENID not in stored


async def test_the_evidence_says_enough_for_an_approved_repair(watch: Watch, wechat: SimulatorProcess) -> None:
    wechat.tell("/sim/pay", out_trade_no=ORDER_NO, amount_fen=9900)
    await watch.expect(ORDER_NO)
    await watch.look()
    ((_, body),) = await watch.outbox()

    repair = PaymentNotified.decode(orjson.dumps({**body["evidence"], "order_no": ORDER_NO, "source": "repair"}))

    assert (repair.amount_fen, repair.currency, repair.trade_state) == (9900, "CNY", "SUCCESS")


@pytest.mark.parametrize(("policy", "verdict"), [(Policy.REPORT, "accepted"), (Policy.APPLY, "duplicate")])
async def test_the_late_callback_is_news_unless_the_policy_has_told_it(  # noqa: PLR0917
    pool: asyncpg.Pool,
    client: httpx.AsyncClient,
    wechat: SimulatorProcess,
    keys: Keys,
    channel: WeChat,
    policy: Policy,
    verdict: str,
) -> None:
    watch = make(pool, client, wechat, keys, policy)
    paid = wechat.tell("/sim/pay", out_trade_no=ORDER_NO, amount_fen=9900)["transaction"]
    await watch.expect(ORDER_NO)
    await watch.look()
    by_policy = [event_id for event_id, _ in await watch.outbox()]

    await deliver(pool, channel, keys, paid)

    natural = f"wechat:{paid['transaction_id']}:paid"
    told = await watch.outbox()
    assert (natural in by_policy) is (policy is Policy.APPLY)
    assert [event_id for event_id, _ in told].count(natural) == 1
    source = next(body["source"] for event_id, body in told if event_id == natural)
    assert source == ("repair" if policy is Policy.APPLY else "callback")
    assert await pool.fetchval("select verdict from callback_log") == verdict
    assert await watch.missing() == 1  # a failed callback for ever, either way


async def deliver(pool: asyncpg.Pool, channel: WeChat, keys: Keys, *paid: dict[str, Any]) -> None:
    """The callbacks come after all."""
    settings, http_settings = CallbackSettings(), HttpSettings()  # type: ignore[call-arg]
    gate = build(pool, channels=[channel], settings=settings, clock=SystemClock(), http_settings=http_settings)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(gate), base_url="http://test") as service:
        for one in paid:
            sent = send(keys, one)
            answer = await service.post("/v1/order/callback/wechat", content=sent.body, headers=sent.headers)
            assert answer.status_code == 204


async def test_a_payment_that_was_told_is_no_evidence_of_anything(
    watch: Watch, wechat: SimulatorProcess, keys: Keys, channel: WeChat
) -> None:
    paid = wechat.tell("/sim/pay", out_trade_no=ORDER_NO, amount_fen=9900)["transaction"]
    await deliver(watch.pool, channel, keys, paid)
    await watch.expect(ORDER_NO)

    await watch.look()

    assert [event_id for event_id, _ in await watch.outbox()] == [f"wechat:{paid['transaction_id']}:paid"]
    assert await watch.missing() == 0
    assert await watch.awaited() == {}


async def test_a_payment_of_this_moment_gets_time_for_its_callback(
    pool: asyncpg.Pool, client: httpx.AsyncClient, wechat: SimulatorProcess, keys: Keys
) -> None:
    watch = make(pool, client, wechat, keys, grace=timedelta(seconds=60))
    wechat.tell("/sim/pay", out_trade_no=ORDER_NO, amount_fen=9900)
    await watch.expect(ORDER_NO)

    await watch.look()

    assert await watch.missing() == 0
    assert timedelta(seconds=50) < (await watch.awaited())[ORDER_NO] <= timedelta(seconds=60)


async def test_an_unpaid_order_is_looked_at_by_plan_and_a_silent_channel_sooner(
    watch: Watch, wechat: SimulatorProcess
) -> None:
    wechat.tell("/sim/prepay", out_trade_no=ORDER_NO, amount_fen=9900)
    await watch.expect(ORDER_NO)

    await watch.look()
    by_plan = (await watch.awaited())[ORDER_NO]
    wechat.tell("/sim/api-faults", call="query", fault="later")
    await watch.look()
    after_silence = (await watch.awaited())[ORDER_NO]

    assert timedelta(minutes=9) < by_plan <= timedelta(minutes=10)  # 15 minutes old
    assert after_silence < timedelta(minutes=1.1)
    assert await watch.outbox() == []


async def test_an_order_without_a_channel_is_asked_for_everywhere(watch: Watch, wechat: SimulatorProcess) -> None:
    wechat.tell("/sim/pay", out_trade_no=ORDER_NO, amount_fen=9900)
    await watch.expect(ORDER_NO, channel=None)

    await watch.look()

    assert await watch.missing() == 1


async def test_the_channels_are_never_asked_more_often_than_allowed(
    pool: asyncpg.Pool, client: httpx.AsyncClient, wechat: SimulatorProcess, keys: Keys
) -> None:
    lookout = Lookout(
        pool,
        [wechat_gateway(client, wechat.url, keys)],
        plan=PLAN,
        rule=Rule(Policy.REPORT, timedelta()),
        allowance=Allowance(3),
        clock=SystemClock(),
        time_factor=1,
    )
    await Watch(pool, lookout).expect(*(f"261122093015ABCDEFGH{number:04d}" for number in range(10)))

    assert len(await lookout.claim(16)) == 3
    assert len(await lookout.claim(16)) <= 1


async def test_two_looks_at_the_same_payment_show_it_once(watch: Watch, wechat: SimulatorProcess) -> None:
    wechat.tell("/sim/pay", out_trade_no=ORDER_NO, amount_fen=9900)
    await watch.expect(ORDER_NO)
    (order,) = await watch.lookout.claim(16)

    await watch.lookout.look(order)
    await watch.lookout.look(order)  # its lease had run out, and it was not dead after all

    assert len(await watch.outbox()) == 1
