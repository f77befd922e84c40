"""Kafka away, and PostgreSQL restarted meanwhile: callbacks are answered rightly, and every payment reaches its order.

ORDERLOOP_TEST_KAFKA_AWAY_SECONDS makes the fault last longer than the suite has time for: 300 at night.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any

import httpx

from orderloop.events import PaymentNotified
from orderloop_lab import invariants
from orderloop_lab.system import Lab
from tests.support.kafka import until

AWAY_SECONDS = float(os.environ.get("ORDERLOOP_TEST_KAFKA_AWAY_SECONDS", "9"))
PAUSE_SECONDS = 0.4  # between two payments
STORED, NOT_STORED = 204, 503


async def pay(lab: Lab, http: httpx.AsyncClient, orders: list[str]) -> None:
    for order_no in orders:
        answer = await http.post(f"{lab.urls['wechat']}/sim/pay", json={"out_trade_no": order_no, "amount_fen": 9900})
        answer.raise_for_status()
        await asyncio.sleep(PAUSE_SECONDS)  # payments come in for as long as Kafka is away


class Channel:
    """What the simulator's own ledger says of these orders."""

    def __init__(self, lab: Lab, http: httpx.AsyncClient, orders: list[str]) -> None:
        self._url = f"{lab.urls['wechat']}/sim/ledger"
        self._http = http
        self._orders = set(orders)

    async def acknowledged(self) -> dict[str, str]:
        """By order, what payment-callback has to know the payment as."""
        notices = await self._read("notices")
        return {
            notice["about"]: f"wechat:{notice['plaintext']['transaction_id']}:paid"
            for notice in notices
            if notice["acknowledgements"]
        }

    async def statuses(self) -> set[int | None]:
        return {attempt["status"] for attempt in await self._read("attempts") if attempt["answered_at"]}

    async def _read(self, kind: str) -> list[dict[str, Any]]:
        ledger = (await self._http.get(self._url)).raise_for_status().json()
        return [document for document in ledger[kind] if document["about"] in self._orders]


async def stored(lab: Lab, table: str, orders: list[str]) -> dict[str, str]:
    """The payments in one of payment-callback's tables."""
    conn = await lab.connect("payment_callback", "admin")
    try:
        rows = await conn.fetch(
            f"select order_no, event_id from {table} where order_no = any($1) and topic = $2",  # noqa: S608
            orders,
            PaymentNotified.TOPIC,
        )
    finally:
        await conn.close()
    assert len(rows) == len({row["order_no"] for row in rows})
    return {row["order_no"]: row["event_id"] for row in rows}


async def unpaid(lab: Lab, orders: list[str]) -> set[str]:
    conn = await lab.connect("order_core", "admin")
    try:
        rows = await conn.fetch("select order_no from orders where order_no = any($1) and status = 'pending'", orders)
    finally:
        await conn.close()
    return {row["order_no"] for row in rows}


async def test_callbacks_are_answered_and_kept_while_kafka_is_away_and_postgresql_restarts(
    lab: Lab, http: httpx.AsyncClient, reserve: Callable[[int], Awaitable[str]]
) -> None:
    count = int(AWAY_SECONDS / PAUSE_SECONDS)
    orders = [await reserve(number) for number in range(count)]
    channel = Channel(lab, http, orders)

    await lab.kill("kafka")
    paying = asyncio.create_task(pay(lab, http, orders))
    await asyncio.sleep(AWAY_SECONDS / 3)
    before = await channel.acknowledged()
    await lab.kill("postgres")
    await asyncio.sleep(3)  # the fault itself: some callbacks meet no database at all
    await lab.restart("postgres")
    await paying

    async def all_acknowledged() -> bool:
        return len(await channel.acknowledged()) == count

    await until(all_acknowledged, seconds=150)  # Kafka is still away, and the later retries are a minute apart
    told = await channel.acknowledged()
    assert len(before) > 1
    assert await stored(lab, "callback_memory", orders) == await stored(lab, "outbox", orders) == told
    assert await channel.statuses() == {STORED, NOT_STORED}
    assert await unpaid(lab, orders) == set(orders)

    await lab.restart("kafka")

    async def all_paid() -> bool:
        return not await unpaid(lab, orders)

    await until(all_paid, seconds=90)
    assert await stored(lab, "callback_memory", orders) == told
    report = await invariants.check(invariants.World.of(lab))
    assert report.passed, report.violations or report.unchecked
