"""Which channels there are: those whose settings are there, and any further one by one module and one line."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import asyncpg
import httpx
import orjson
import pytest
import pytest_asyncio

from orderloop import postgres
from orderloop.clock import SystemClock
from orderloop.errors import Permanent
from orderloop.settings import HttpSettings, PostgresSettings
from orderloop_lab.simulators import alipay_keys
from orderloop_lab.simulators.wechat_keys import Keys
from payment_callback.accounts import REGISTERED, Open, open_accounts
from payment_callback.app import build
from payment_callback.settings import CallbackSettings
from tests.payment_callback import coin
from tests.support.alipay import ORDER_NO, TRADE_NO, refund, send, trade
from tests.support.databases import Database


@pytest_asyncio.fixture
async def pool(database: Callable[[str], Database]) -> AsyncIterator[asyncpg.Pool]:
    settings = PostgresSettings(url=database("payment_callback").app_url)  # type: ignore[arg-type]
    async with postgres.pool(settings, application_name="test") as pool:
        yield pool


@pytest.fixture(autouse=True)
def _wechat(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:  # pyright: ignore[reportUnusedFunction]
    for name, value in keys.settings().items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def _alipay(alipay: alipay_keys.Keys, monkeypatch: pytest.MonkeyPatch) -> None:  # pyright: ignore[reportUnusedFunction]
    for name, value in alipay.settings().items():
        monkeypatch.setenv(name, value)


async def names(registered: tuple[Open, ...] = REGISTERED) -> dict[str, bool]:
    """Per channel, whether it can be asked."""
    async with httpx.AsyncClient() as client:
        accounts = open_accounts(registered, client, SystemClock())
        return {account.channel.name: account.gateway is not None for account in accounts}


def service(pool: asyncpg.Pool, registered: tuple[Open, ...] = REGISTERED) -> httpx.AsyncClient:
    accounts = open_accounts(registered, httpx.AsyncClient(), SystemClock())
    gate = build(
        pool,
        channels=[account.channel for account in accounts],
        settings=CallbackSettings(),  # type: ignore[call-arg]
        clock=SystemClock(),
        http_settings=HttpSettings(),  # type: ignore[call-arg]
    )
    return httpx.AsyncClient(transport=httpx.ASGITransport(gate), base_url="http://test")


async def test_without_its_settings_there_is_no_alipay(pool: asyncpg.Pool, alipay: alipay_keys.Keys) -> None:
    sent = send(alipay, trade())

    async with service(pool) as http:
        answer = await http.post("/v1/order/callback/alipay", content=sent.body, headers=sent.headers)

    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")
    assert await names() == {"wechat": True}


@pytest.mark.usefixtures("_alipay")
@pytest.mark.parametrize("missing", ["APP_ID", "SELLER_ID", "PUBLIC_KEY_FILE", "PRIVATE_KEY_FILE"])
async def test_half_an_alipay_stops_the_start(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    assert await names() == {"wechat": True, "alipay": True}
    monkeypatch.delenv(f"ORDERLOOP_ALIPAY_{missing}")

    with pytest.raises(Permanent, match="belong together"):
        await names()


async def test_without_the_merchants_key_wechat_tells_and_cannot_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ORDERLOOP_WECHAT_MERCHANT_SERIAL")
    with pytest.raises(Permanent, match="belong together"):
        await names()
    monkeypatch.delenv("ORDERLOOP_WECHAT_MERCHANT_KEY_FILE")

    assert await names() == {"wechat": False}


async def test_certificates_alone_may_all_come_from_the_channel_but_not_without_asking(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("PUBLIC_KEY_ID", "PUBLIC_KEY_FILE", "CERTIFICATE_DIR"):
        monkeypatch.delenv(f"ORDERLOOP_WECHAT_{name}")
    assert await names() == {"wechat": True}

    monkeypatch.delenv("ORDERLOOP_WECHAT_MERCHANT_SERIAL")
    monkeypatch.delenv("ORDERLOOP_WECHAT_MERCHANT_KEY_FILE")

    with pytest.raises(Permanent, match="neither"):
        await names()


@pytest.mark.parametrize("url", ["http://api.example.com", "ftp://127.0.0.1", "http://127.0.0.1.example.com", "x"])
async def test_a_channel_is_asked_over_https_only(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("ORDERLOOP_WECHAT_API_BASE_URL", url)

    with pytest.raises(ValueError, match="must start with https"):
        await names()


@pytest.mark.usefixtures("_alipay")
async def test_alipays_notices_are_answered_success_once_stored_and_are_one_fact(
    pool: asyncpg.Pool, alipay: alipay_keys.Keys
) -> None:
    sent = [
        send(alipay, trade(), charset="gbk"),
        send(alipay, trade(trade_status="TRADE_FINISHED")),
        send(alipay, refund("R1", "1.00")),
        send(alipay, refund("R1", "1.00")),
        send(alipay, trade(total_amount="99.001")),
        send(alipay, trade(app_id="2021")),
    ]

    async with service(pool) as http:
        answers = [await http.post("/v1/order/callback/alipay", content=one.body, headers=one.headers) for one in sent]

    assert [(answer.status_code, answer.text) for answer in answers] == [
        (200, "success"),
        (200, "success"),
        (200, "success"),
        (200, "success"),
        (422, "fail"),
        (400, "fail"),
    ]
    assert answers[0].headers["content-type"] == "text/plain"
    staged = await pool.fetch("select event_id from outbox")
    assert [row["event_id"] for row in staged] == [f"alipay:{TRADE_NO}:paid"]
    log = await pool.fetch("select verdict from callback_log order by id")
    assert [row["verdict"] for row in log] == ["accepted", "duplicate", "accepted", "duplicate", "refused", "refused"]
    asked = await pool.fetch("select kind, key, order_no from errand")
    assert [tuple(row) for row in asked] == [("refund_look", f"alipay:{TRADE_NO}:R1", ORDER_NO)]


@pytest.mark.usefixtures("_alipay")
async def test_alipay_hears_fail_while_nothing_can_be_stored(pool: asyncpg.Pool, alipay: alipay_keys.Keys) -> None:
    sent = send(alipay, trade())
    async with service(pool) as http:
        await pool.close()
        answer = await http.post("/v1/order/callback/alipay", content=sent.body, headers=sent.headers)

    assert (answer.status_code, answer.text) == (503, "fail")


async def test_a_third_channel_is_one_module_and_one_line(pool: asyncpg.Pool) -> None:
    registered = (*REGISTERED, coin.account)
    body = orjson.dumps({"order": ORDER_NO, "id": "C1", "fen": 9900, "at": "2026-11-22T09:30:15+00:00"})

    async with service(pool, registered) as http:
        forged = await http.post("/v1/order/callback/coin", json={})
        answer = await http.post(
            "/v1/order/callback/coin",
            content=body,
            headers={"X-Coin-Signature": coin.sign(body), "Content-Type": "application/json"},
        )

    assert (forged.status_code, answer.status_code, answer.text) == (401, 200, "OK")
    assert await pool.fetchval("select event_id from outbox") == "coin:C1:paid"
    assert await names(registered) == {"wechat": True, "coin": False}


def test_the_guide_names_what_is_there() -> None:
    guide = (Path(__file__).parents[2] / "docs/guides/add-a-payment-channel.md").read_text(encoding="utf-8")

    for name in (
        "accounts.py",
        "REGISTERED",
        "channels/channel.py",
        "gateways/gateway.py",
        "tests/payment_callback/coin.py",
    ):
        assert name in guide
