"""The list that finance looks through, over HTTP."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import httpx
import pytest

from orderloop.health import Health
from orderloop.http import create_app
from orderloop.ids import new_order_no
from settlement.http import routes
from tests.settlement.conftest import House, request_for
from tests.support.bank import BankProcess


@pytest.fixture
async def client(pool: asyncpg.Pool) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app("settlement", title="settlement", description="", health=Health())
    app.include_router(routes(pool))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://settlement") as client:
        yield client


async def items(client: httpx.AsyncClient, **query: Any) -> list[str]:
    answer = await client.get("/v1/settlements", params=query)
    assert answer.status_code == 200, answer.text
    return [item["order_no"] for item in answer.json()["items"]]


async def test_a_settlement_shows_what_finance_needs(client: httpx.AsyncClient, house: House, order_no: str) -> None:
    await house.take_in(request_for(order_no))
    await house.turn_until_final()

    (item,) = (await client.get("/v1/settlements", params={"order_no": order_no})).json()["items"]

    assert item["instruction_id"] == f"{order_no}_P1"
    assert (item["status"], item["bank_code"], item["amount_fen"]) == ("success", "0000", 9_900)
    assert datetime.fromisoformat(item["arrived_at"]).utcoffset() is not None
    assert item["reason"] is None


async def test_settlements_are_found_by_what_is_known_of_them(
    client: httpx.AsyncClient, house: House, bank: BankProcess
) -> None:
    paid, refused, waiting = (new_order_no(datetime.now(UTC)) for _ in range(3))
    bank.will(order_no=refused, outcome="failed")
    await house.take_in(request_for(paid), request_for(refused))
    await house.turn_until_final()
    await house.take_in(request_for(waiting))
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()

    assert await items(client, status="success") == [paid]
    assert await items(client, status="failed") == [refused]
    assert await items(client, status="requested") == [waiting]
    assert await items(client, instruction_id=f"{paid}_P1") == [paid]
    assert await items(client, requested_from=tomorrow) == []
    assert sorted(await items(client, requested_until=tomorrow)) == sorted([paid, refused, waiting])


async def test_pages_follow_each_other_without_gap_or_repeat(client: httpx.AsyncClient, house: House) -> None:
    orders = [new_order_no(datetime.now(UTC) + timedelta(seconds=n)) for n in range(7)]
    await house.take_in(*(request_for(order_no) for order_no in orders))

    seen: list[str] = []
    query: dict[str, Any] = {"limit": 3}
    for _ in range(3):
        page = (await client.get("/v1/settlements", params=query)).json()
        seen += [item["order_no"] for item in page["items"]]
        query["after"] = page["next"]

    assert seen == orders[::-1]
    assert query["after"] is None


@pytest.mark.parametrize(
    "query",
    [
        {"order_no": "1"},
        {"status": "lost"},
        {"limit": 0},
        {"limit": 501},
        {"after": "nonsense"},
        {"requested_from": "2026-01-01T00:00:00"},
        {"instruction_id": "' or 1=1 --"},
    ],
)
async def test_a_question_that_makes_no_sense_is_a_problem(client: httpx.AsyncClient, query: dict[str, Any]) -> None:
    answer = await client.get("/v1/settlements", params=query)

    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["type"].endswith("/invalid-request")
