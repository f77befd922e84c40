"""What an open anomaly cites is held at payment-callback; against the real service and its database."""

from collections.abc import AsyncIterator, Callable

import asyncpg
import httpx
import pytest
from pydantic import SecretStr, ValidationError

from order_core import metrics
from order_core.apply import apply
from order_core.holds import keep_in_line
from order_core.settings import HoldsSettings
from orderloop.clock import SystemClock
from orderloop.settings import HttpSettings
from payment_callback.app import build
from payment_callback.settings import CallbackSettings
from tests.support.databases import Database
from tests.support.orders import NOW, labelled, paid, reserved, settled

TOKEN = "operators-only"


@pytest.fixture
async def payment_callback(database: Callable[[str], Database]) -> AsyncIterator[httpx.AsyncClient]:
    async with asyncpg.create_pool(database("payment_callback").app_url, min_size=0, max_size=2) as pool:
        app = build(
            pool,
            channels=[],
            settings=CallbackSettings(),
            clock=SystemClock(),
            http_settings=HttpSettings(operator_token=SecretStr(TOKEN)),
        )
        headers = {"Authorization": f"Bearer {TOKEN}"}
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://callbacks", headers=headers) as client:
            yield client


async def paid_twice(conn: asyncpg.Connection, external_order_id: str) -> str:
    order_no = await reserved(conn, external_order_id)
    async with conn.transaction():
        await apply(conn, [paid(order_no, f"{external_order_id}1"), paid(order_no, f"{external_order_id}2")], now=NOW)
    return order_no


async def held(payment_callback: httpx.AsyncClient) -> dict[str, str]:
    return {hold["order_no"]: hold["reason"] for hold in (await payment_callback.get("/v1/callbacks/holds")).json()}


async def test_callbacks_are_held_as_long_as_an_anomaly_that_cites_them_is_open(
    pool: asyncpg.Pool, conn: asyncpg.Connection, payment_callback: httpx.AsyncClient
) -> None:
    first, second = await paid_twice(conn, "1"), await paid_twice(conn, "2")

    await keep_in_line(pool, payment_callback)
    await keep_in_line(pool, payment_callback)
    assert await held(payment_callback) == {
        first: "order-core: anomaly 1, paid_twice",
        second: "order-core: anomaly 2, paid_twice",
    }

    await conn.execute("update anomaly set resolved_at = now() where order_no = $1", first)
    await keep_in_line(pool, payment_callback)
    assert (await held(payment_callback)).keys() == {second}
    await conn.execute("update anomaly set resolved_at = null")  # it came again
    await keep_in_line(pool, payment_callback)
    assert (await held(payment_callback)).keys() == {first, second}


async def test_what_others_told_holds_no_callback_and_what_a_person_holds_stays(
    pool: asyncpg.Pool, conn: asyncpg.Connection, payment_callback: httpx.AsyncClient
) -> None:
    order_no, asked_for = await reserved(conn, "1"), await reserved(conn, "2")
    async with conn.transaction():
        await apply(conn, [paid(order_no), labelled(order_no), settled(order_no)], now=NOW)
    assert await conn.fetchval("select kind from anomaly where resolved_at is null") == "settlement_not_requested"
    await payment_callback.put(f"/v1/callbacks/holds/{asked_for}", json={"reason": "for the lawyers"})

    await keep_in_line(pool, payment_callback)

    assert await held(payment_callback) == {asked_for: "for the lawyers"}


async def test_a_hold_that_fails_keeps_up_no_other_and_is_made_up_for(
    pool: asyncpg.Pool, conn: asyncpg.Connection, payment_callback: httpx.AsyncClient
) -> None:
    first, second = await paid_twice(conn, "1"), await paid_twice(conn, "2")

    async def lost(request: httpx.Request) -> None:
        if request.url.path.endswith(first):
            raise httpx.ConnectError("nobody answers")

    errors = metrics.CALLBACK_HOLD_ERRORS._value.get()
    payment_callback.event_hooks = {"request": [lost]}
    await keep_in_line(pool, payment_callback)
    assert (await held(payment_callback)).keys() == {second}
    assert (metrics.CALLBACK_HOLDS_MISSING._value.get(), metrics.CALLBACK_HOLD_ERRORS._value.get()) == (1, errors + 1)

    payment_callback.event_hooks = {"request": []}
    await keep_in_line(pool, payment_callback)
    assert (await held(payment_callback)).keys() == {first, second}
    assert metrics.CALLBACK_HOLDS_MISSING._value.get() == 0


async def test_without_the_token_nothing_is_held_and_the_job_says_so(
    pool: asyncpg.Pool, conn: asyncpg.Connection, payment_callback: httpx.AsyncClient
) -> None:
    await paid_twice(conn, "1")
    payment_callback.headers["Authorization"] = "Bearer guessed"

    with pytest.raises(httpx.HTTPStatusError, match="401"):
        await keep_in_line(pool, payment_callback)


def test_an_address_without_a_token_is_refused_at_the_start() -> None:
    with pytest.raises(ValidationError, match="belong together"):
        HoldsSettings(base_url="http://payment-callback")
