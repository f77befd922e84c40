"""The whole system, once for all end-to-end tests: separate processes on a broker, database and cache of their own,
because these tests kill them."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from uuid import uuid4

import asyncpg
import httpx
import pytest

from orderloop_lab.scenario import plan
from orderloop_lab.shop import Shop
from orderloop_lab.system import Lab
from tests.support import sessions

# Four hours a second: a parcel arrives about ten seconds after its label.
TIME_FACTOR = 4 * 3600.0


@pytest.fixture(scope="session")
def running_lab() -> Iterator[Lab]:
    home = sessions.new_home("e2e")
    lab = Lab(home.folder, environment={}, time_factor=TIME_FACTOR)
    try:
        sessions.run(lab.up())
        yield lab
    finally:
        sessions.remove(home)


@pytest.fixture
async def lab(running_lab: Lab) -> Lab:
    """The lab with everything running, whatever the test before has killed."""
    await running_lab.up()
    return running_lab


@pytest.fixture
def source() -> str:
    """A shop of this test's own."""
    return f"test-{uuid4().hex[:8]}"


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=15, trust_env=False) as http:
        yield http


@pytest.fixture
def reserve(lab: Lab, http: httpx.AsyncClient, source: str) -> Callable[[int], Awaitable[str]]:
    """`await reserve(7)`: a pending order of 99 yuan, for tests that pay (or do not) by themselves."""

    async def reserve(number: int) -> str:
        wish = {
            "source": source,
            "external_order_id": str(number),
            "amount_fen": 9900,
            "items": [{"sku": "s", "name": "n", "quantity": 1}],
            "receiver": {"name": "n", "phone": "13800138000", "region": "广东", "address": "a"},
        }
        answer = await http.post(f"{lab.urls['order-core']}/v1/orders", json=wish)
        assert answer.is_success, answer.text
        return answer.json()["order_no"]

    return reserve


@pytest.fixture(scope="session")
def order(running_lab: Lab) -> tuple[str, list[asyncpg.Record]]:
    """An order that has gone its whole way, and its log."""
    return sessions.run(_sold(running_lab))


async def _sold(lab: Lab) -> tuple[str, list[asyncpg.Record]]:
    await lab.up()
    async with Shop(lab, f"traced-{uuid4().hex[:8]}") as shop:
        await shop.sell([replace(plan(1, seed=5)[0], mishaps=frozenset())])
        await shop.until(shop.arrived, silence=90)
        [order_no] = shop.plans
    core = await lab.connect("order_core")
    log = await core.fetch("select version, event, traceparent from order_log where order_no = $1 order by 1", order_no)
    await core.close()
    return order_no, log
