"""However many ask for it, and whatever becomes of Redis meanwhile, an order leaves the warehouse once."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

import httpx

from orderloop_lab.campaigns.ship import REQUESTS, Rush, ship_all_at_once, two_processes
from orderloop_lab.system import Lab
from tests.support.kafka import until


async def test_a_hundred_requests_at_two_processes_ship_once_while_redis_is_flushed_and_killed(
    lab: Lab, http: httpx.AsyncClient, reserve: Callable[[int], Awaitable[str]]
) -> None:
    orders = await asyncio.gather(reserve(1), reserve(2))
    for order_no in orders:
        money = {"out_trade_no": order_no, "amount_fen": 9900}
        (await http.post(f"{lab.urls['wechat']}/sim/pay", json=money)).raise_for_status()

    async def all_paid() -> bool:
        read = [await http.get(f"{lab.urls['order-core']}/v1/orders/{order_no}") for order_no in orders]
        return all(answer.json()["status"] == "paid" for answer in read)

    await until(all_paid, seconds=60)
    async with two_processes(lab) as urls:
        for order_no, redis in zip(orders, ("flushed", "killed"), strict=True):
            rushed = await ship_all_at_once(lab, urls, order_no, Rush(redis, after=5))

            assert list(rushed.violations()) == []
            assert Counter(answer.status_code for answer in rushed.answers).total() == REQUESTS
