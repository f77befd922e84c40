"""A day without callbacks: every paid order shows, none is repaired, and the late callback mends it."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import httpx

from orderloop_lab.system import Lab
from tests.support.kafka import until

ORDERS = 8
NOWHERE = "http://127.0.0.1:9/lost"


async def fetch(lab: Lab, query: str, order_nos: list[str]) -> list[asyncpg.Record]:
    conn = await lab.connect("order_core", "admin")
    try:
        return await conn.fetch(query, order_nos)
    finally:
        await conn.close()


async def test_every_lost_callback_shows_and_the_late_one_mends_and_closes(
    lab: Lab, http: httpx.AsyncClient, reserve: Callable[[int], Awaitable[str]]
) -> None:
    orders = await asyncio.gather(*(reserve(number) for number in range(ORDERS)))

    async def pay(order_no: str) -> dict[str, Any]:
        body = {"out_trade_no": order_no, "amount_fen": 9900, "notify_url": NOWHERE}
        answer = await http.post(f"{lab.urls['wechat']}/sim/pay", json=body)
        return answer.raise_for_status().json()["transaction"]

    paid = {order_no: await pay(order_no) for order_no in orders}
    missing = "select order_no, resolved_at from anomaly where kind = 'callback_missing' and order_no = any($1)"

    async def all_show() -> bool:
        return len(await fetch(lab, missing, orders)) == ORDERS

    await until(all_show, seconds=60)
    statuses = await fetch(lab, "select distinct status from orders where order_no = any($1)", orders)
    assert [row["status"] for row in statuses] == ["pending"]

    for order_no, transaction in paid.items():
        notice = {"about": order_no, "event_type": "TRANSACTION.SUCCESS", "original_type": "transaction",
                  "plaintext": transaction}  # fmt: skip
        (await http.post(f"{lab.urls['wechat']}/sim/notice", json=notice)).raise_for_status()

    async def all_paid() -> bool:
        open_ = [row for row in await fetch(lab, missing, orders) if row["resolved_at"] is None]
        rows = await fetch(lab, "select from orders where order_no = any($1) and status <> 'pending'", orders)
        return len(rows) == ORDERS and not open_

    await until(all_paid, seconds=60)

    async def still_counted() -> bool:
        metrics = (await http.get(f"{lab.urls['payment-callback']}/metrics")).text
        return 'orderloop_callbacks_missing{channel="wechat",policy="report"}' in metrics

    await until(still_counted)
