"""order-core as the shop, the back office and the customer's app meet it."""

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import asyncpg
import httpx
import orjson
import pytest
from redis.asyncio import Redis

from order_core import http
from order_core.apply import apply
from order_core.orders import Incoming
from order_core.settings import OrderSettings
from orderloop.clock import SystemClock
from orderloop.health import Health
from tests.support.orders import AMOUNT, NOW, paid
from tests.support.orders import labelled as label
from tests.support.orders import settled as settle

WISH = {
    "source": "douyin",
    "external_order_id": "D-1",
    "amount_fen": AMOUNT,
    "items": [{"sku": "SOFA-3", "name": "Sofa", "quantity": 1}],
    "receiver": {"name": "张三", "phone": "13800000000", "region": "江苏", "address": "南京路 1 号"},
}


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
async def shop(pool: asyncpg.Pool, redis: Redis) -> AsyncIterator[httpx.AsyncClient]:
    app = http.create(pool=pool, redis=redis, clock=SystemClock(), health=Health(), settings=OrderSettings())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://order-core") as client:
        yield client


async def reserve(shop: httpx.AsyncClient, **changes: object) -> str:
    answer = await shop.post("/v1/orders", json=WISH | changes)
    assert answer.status_code in {200, 201}, answer.text
    return answer.json()["order_no"]


async def told(pool: asyncpg.Pool, *events: Incoming) -> None:
    """The write path hears of these, as it would from Kafka."""
    async with pool.acquire() as conn, conn.transaction():
        await apply(conn, events, now=NOW)


def keyed() -> dict[str, str]:
    return {"Idempotency-Key": str(uuid4())}


async def test_the_same_shop_order_gets_the_same_number(shop: httpx.AsyncClient, pool: asyncpg.Pool) -> None:
    first = await shop.post("/v1/orders", json=WISH)
    again = await shop.post("/v1/orders", json=WISH)

    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json()
    assert await pool.fetchval("select count(*) from orders") == 1
    assert await pool.fetchval("select count(*) from outbox") == 1


async def test_twenty_simultaneous_reservations_of_one_shop_order_make_one_order(
    shop: httpx.AsyncClient, pool: asyncpg.Pool
) -> None:
    numbers = await asyncio.gather(*(reserve(shop) for _ in range(20)))

    assert len(set(numbers)) == 1
    assert await pool.fetchval("select count(*) from order_log") == 1


async def test_a_shop_order_id_used_for_other_goods_is_refused(shop: httpx.AsyncClient) -> None:
    order_no = await reserve(shop)

    answer = await shop.post("/v1/orders", json=WISH | {"amount_fen": 1})

    assert answer.status_code == 409
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["type"].endswith("/reservation-differs")
    assert answer.json()["order_no"] == order_no


@pytest.mark.parametrize(
    "changes",
    [{"amount_fen": 0}, {"amount_fen": 1.5}, {"amount_fen": "9900"}, {"currency": "yuan"}, {"items": []}, {"extra": 1}],
)
async def test_a_wish_that_makes_no_sense_is_refused_without_repeating_its_values(
    shop: httpx.AsyncClient, changes: dict[str, object]
) -> None:
    answer = await shop.post("/v1/orders", json=WISH | changes)

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"].startswith("body")
    assert "13800000000" not in answer.text


@pytest.mark.parametrize(
    "changes",
    [
        {"items": [{"sku": "S", "name": "Sofa", "quantity": 10**30}]},
        {"receiver": {"name": "n", "phone": "1", "region": "r", "address": "路" * 1025}},
        {"source": "d\0"},
    ],
)
async def test_what_no_event_or_row_could_hold_is_refused(shop: httpx.AsyncClient, changes: dict[str, object]) -> None:
    assert (await shop.post("/v1/orders", json=WISH | changes)).status_code == 422


async def test_the_largest_order_fits_into_its_events_and_a_larger_body_is_not_read(
    shop: httpx.AsyncClient, pool: asyncpg.Pool
) -> None:
    items = [{"sku": "S" * 40, "name": "沙" * 74, "quantity": 1_000_000}] * 200
    body = orjson.dumps(WISH | {"items": items})
    assert 60_000 < len(body) < 64 * 1024
    json = {"Content-Type": "application/json"}
    order_no = (await shop.post("/v1/orders", content=body, headers=json)).json()["order_no"]
    await told(pool, paid(order_no))
    await shop.post(f"/v1/orders/{order_no}/ship", json={}, headers=keyed())

    assert await pool.fetchval("select max(length(body)) from outbox") < 64 * 1024
    refused = await shop.post("/v1/orders", content=body + b" " * 5_000, headers=json)
    assert (refused.status_code, refused.json()["type"].rpartition("/")[2]) == (413, "body-too-large")


@pytest.mark.parametrize("path", ["/v1/orders?source=%00", "/v1/dead-letters?topic=%00", "/v1/dead-letters?group=a%00"])
async def test_a_question_that_no_text_of_the_database_can_answer_is_refused(
    shop: httpx.AsyncClient, path: str
) -> None:
    assert (await shop.get(path)).status_code == 422


async def test_what_a_shop_says_of_its_goods_beyond_our_words_is_tolerated(shop: httpx.AsyncClient) -> None:
    items = [{**WISH["items"][0], "unit_price": 5}]  # type: ignore[index]

    answer = await shop.post("/v1/orders", json=WISH | {"items": items, "receiver": {**WISH["receiver"], "floor": 3}})  # type: ignore[dict-item]

    assert answer.is_success


async def paid_order(shop: httpx.AsyncClient, pool: asyncpg.Pool, external_order_id: str = "D-1") -> str:
    order_no = await reserve(shop, external_order_id=external_order_id)
    await told(pool, paid(order_no, f"t-{external_order_id}"))
    return order_no


async def test_shipping_needs_a_key_and_says_how(shop: httpx.AsyncClient, pool: asyncpg.Pool) -> None:
    order_no = await paid_order(shop, pool)

    answer = await shop.post(f"/v1/orders/{order_no}/ship", json={})

    assert answer.status_code == 400
    assert "Idempotency-Key" in answer.json()["detail"]


async def test_a_repeated_ship_request_gets_the_first_answer(shop: httpx.AsyncClient, pool: asyncpg.Pool) -> None:
    order_no, key = await paid_order(shop, pool), keyed()

    first = await shop.post(f"/v1/orders/{order_no}/ship", json={"warehouse": "suzhou"}, headers=key)
    again = await shop.post(f"/v1/orders/{order_no}/ship", json={"warehouse": "suzhou"}, headers=key)
    other = await shop.post(f"/v1/orders/{order_no}/ship", json={"warehouse": "dongguan"}, headers=key)

    assert (first.status_code, again.status_code, other.status_code) == (202, 202, 422)
    assert first.json() == again.json() == {"order_no": order_no, "shipment_id": f"{order_no}_S1", "status": "shipping"}
    assert await pool.fetchval("select count(*) from outbox where topic = 'orderloop.shipment-requested.v1'") == 1


async def test_a_hundred_simultaneous_ship_requests_ship_once(
    shop: httpx.AsyncClient, pool: asyncpg.Pool, unused_tcp_port: int
) -> None:
    """Nobody answers for Redis: without the shield the database has to do."""
    order_no, same = await paid_order(shop, pool), keyed()
    async with Redis(port=unused_tcp_port) as nobody:
        app = http.create(pool=pool, redis=nobody, clock=SystemClock(), health=Health(), settings=OrderSettings())
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://order-core") as bare:
            path = f"/v1/orders/{order_no}/ship"
            answers = await asyncio.gather(
                *(bare.post(path, json={}, headers=same if n % 2 else keyed()) for n in range(100))
            )

    accepted = [answer for answer in answers if answer.status_code == 202]
    assert {answer.status_code for answer in answers} <= {202, 409}
    assert len({answer.content for answer in accepted}) == 1
    assert await pool.fetchval("select count(*) from shipment") == 1
    assert await pool.fetchval("select count(*) from outbox where topic = 'orderloop.shipment-requested.v1'") == 1


async def test_a_held_lock_turns_the_second_request_away(
    shop: httpx.AsyncClient, pool: asyncpg.Pool, redis: Redis
) -> None:
    order_no = await paid_order(shop, pool)
    await redis.set(f"lock:ship:{order_no}", "somebody", ex=30)

    answer = await shop.post(f"/v1/orders/{order_no}/ship", json={}, headers=keyed())

    assert answer.status_code == 409
    assert answer.json()["type"].endswith("/still-running")
    assert await redis.get(f"lock:ship:{order_no}") == b"somebody"


async def test_without_redis_the_order_ships_all_the_same(pool: asyncpg.Pool, unused_tcp_port: int) -> None:
    async with Redis.from_url(f"redis://127.0.0.1:{unused_tcp_port}") as nobody:
        app = http.create(pool=pool, redis=nobody, clock=SystemClock(), health=Health(), settings=OrderSettings())
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://order-core") as shop:
            order_no = await paid_order(shop, pool)
            answer = await shop.post(f"/v1/orders/{order_no}/ship", json={}, headers=keyed())

    assert answer.status_code == 202


@pytest.mark.parametrize("question", ["set", "eval"])  # takes the lock, gives it back
async def test_a_redis_that_goes_in_mid_sentence_costs_no_request(
    shop: httpx.AsyncClient, pool: asyncpg.Pool, redis: Redis, monkeypatch: pytest.MonkeyPatch, question: str
) -> None:
    async def closed(*_args: object, **_options: object) -> None:
        # what uvloop says when the server has hung up since the pool looked
        raise RuntimeError("unable to perform operation on <TCPTransport closed=True>; the handler is closed")

    order_no = await paid_order(shop, pool)
    monkeypatch.setattr(redis, question, closed)

    assert (await shop.post(f"/v1/orders/{order_no}/ship", json={}, headers=keyed())).status_code == 202


async def test_an_unpaid_order_does_not_ship_and_the_answer_says_why(
    shop: httpx.AsyncClient, pool: asyncpg.Pool
) -> None:
    order_no = await reserve(shop)

    answer = await shop.post(f"/v1/orders/{order_no}/ship", json={}, headers=keyed())

    assert answer.status_code == 409
    assert answer.json()["order_status"] == "pending"
    assert await pool.fetchval("select count(*) from idempotency") == 0
    assert await pool.fetchval("select status from access_log where route = 'ship'") == 409


@pytest.mark.parametrize("route", ["", "/timeline"])
async def test_an_unknown_order_is_a_404(shop: httpx.AsyncClient, route: str) -> None:
    answer = await shop.get(f"/v1/orders/260122090000ZZZZZZZZZZZZ{route}")

    assert answer.status_code == 404


async def test_confirming_receipt_asks_for_the_settlement_once(shop: httpx.AsyncClient, pool: asyncpg.Pool) -> None:
    order_no, key = await paid_order(shop, pool), keyed()
    await told(pool, label(order_no))

    first = await shop.post(f"/v1/orders/{order_no}/confirm-receipt", headers=key)
    again = await shop.post(f"/v1/orders/{order_no}/confirm-receipt", headers=key)
    other = await shop.post(f"/v1/orders/{order_no}/confirm-receipt", headers=keyed())

    assert (first.status_code, again.status_code, other.status_code) == (202, 202, 409)
    assert first.json()["status"] == "pending_settlement"
    assert "1–3" in first.json()["prompt"]["zh"]
    assert await pool.fetchval("select count(*) from outbox where topic = 'orderloop.settlement-requested.v1'") == 1


async def test_the_timeline_tells_the_whole_story_without_the_receivers_data(
    shop: httpx.AsyncClient, pool: asyncpg.Pool
) -> None:
    order_no = await paid_order(shop, pool)
    await shop.post(f"/v1/orders/{order_no}/ship", json={}, headers=keyed())
    await told(pool, label(order_no))
    await shop.post(f"/v1/orders/{order_no}/confirm-receipt", headers=keyed())
    await told(pool, settle(order_no), paid(order_no, "another"))

    answer = await shop.get(f"/v1/orders/{order_no}/timeline")

    story = answer.json()
    assert [change["to"] for change in story["changes"]] == [
        "pending",
        "paid",
        "shipping",
        "shipped",
        "pending_settlement",
        "completed",
    ]
    assert story["anomalies"][0]["kind"] == "paid_twice"
    assert [payment["applied"] for payment in story["payments"]] == [True, False]
    assert "张三" not in answer.text
    assert "13800000000" not in answer.text


async def test_part_of_the_money_goes_back_once_per_key(shop: httpx.AsyncClient, pool: asyncpg.Pool) -> None:
    order_no, key = await paid_order(shop, pool), keyed()
    wish = {"reason": "a scratch", "amount_fen": 900}

    first = await shop.post(f"/v1/orders/{order_no}/refund", json=wish, headers=key)
    again = await shop.post(f"/v1/orders/{order_no}/refund", json=wish, headers=key)
    too_much = await shop.post(f"/v1/orders/{order_no}/refund", json=wish | {"amount_fen": 9900}, headers=keyed())
    rest = await shop.post(f"/v1/orders/{order_no}/refund", json={"reason": "all of it"}, headers=keyed())

    assert first.json() == again.json()
    assert (first.json()["out_refund_no"], first.json()["status"]) == (f"{order_no}_R1", "paid")
    assert (too_much.status_code, too_much.json()["reason"]) == (409, "nothing-left-to-refund")
    assert (rest.json()["amount_fen"], rest.json()["status"]) == (AMOUNT - 900, "refunding")
    attempts = await pool.fetch("select status, count(distinct request_id) from access_log group by 1 order by 1")
    assert [tuple(row) for row in attempts] == [(201, 1), (202, 2), (409, 1)]
    assert await pool.fetchval("select count(*) from access_log where route = 'refund'") == 4


async def test_an_attempt_without_a_key_is_refused_and_logged(shop: httpx.AsyncClient, pool: asyncpg.Pool) -> None:
    order_no = await reserve(shop)

    answer = await shop.post(f"/v1/orders/{order_no}/ship", json={}, headers={"X-Request-Id": "front-end-7"})

    assert answer.status_code == 400
    row = await pool.fetchrow("select order_no, request_id, route, status from access_log where route = 'ship'")
    assert tuple(row or ()) == (order_no, "front-end-7", "ship", 400)


@pytest.mark.parametrize("half", [{"transaction_id": "2"}, {"channel": "wechat"}])
async def test_half_a_payments_name_gives_back_nothing(
    shop: httpx.AsyncClient, pool: asyncpg.Pool, half: dict[str, str]
) -> None:
    """It meant the second payment; the order's own would have gone back."""
    order_no = await reserve(shop)
    await told(pool, paid(order_no, "1"), paid(order_no, "2"))

    answer = await shop.post(f"/v1/orders/{order_no}/refund", json={"reason": "twice"} | half, headers=keyed())

    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
    assert "both, or neither" in answer.json()["errors"][0]["error"]
    assert await pool.fetchval("select count(*) from refund") == 0


async def test_whatever_was_wrong_with_an_attempt_it_is_logged(shop: httpx.AsyncClient, pool: asyncpg.Pool) -> None:
    order_no = await reserve(shop)
    path, about = f"/v1/orders/{order_no}/ship", {"X-Request-Id": "r-1", "X-Caller": "shop"}
    await shop.post("/v1/orders", json=WISH | {"amount_fen": 1})
    await shop.post("/v1/orders", json={})
    await shop.post(path, json={}, headers=about | {"Idempotency-Key": "short"})
    await shop.post(path, content=b"{", headers=about | keyed() | {"Content-Type": "application/json"})
    await shop.post(path, json={"nope": 1}, headers=about | keyed())
    await shop.post(path, content=b" " * 70_000, headers=about | keyed())
    await shop.post("/v1/orders/%00x/ship", json={}, headers=about)
    await shop.post("/v1/anomalies/1/act", json={"repair": "nope"}, headers=about)
    await shop.get(f"/v1/orders/{order_no}")

    rows = await pool.fetch("select order_no, request_id, route, caller, status from access_log order by id")
    assert [tuple(row) for row in rows] == [
        (order_no, "", "orders", "anonymous", 201),
        (order_no, "", "orders", "anonymous", 409),
        ("orders", "", "orders", "anonymous", 422),
        *((order_no, "r-1", "ship", "shop", status) for status in (422, 422, 422, 413)),
        ("x", "r-1", "ship", "shop", 422),
        ("anomalies/1", "r-1", "act", "shop", 422),
    ]


async def test_twenty_simultaneous_refunds_give_back_no_more_than_came(
    shop: httpx.AsyncClient, pool: asyncpg.Pool
) -> None:
    order_no = await paid_order(shop, pool)
    wish = {"reason": "many clicks", "amount_fen": 2000}

    answers = await asyncio.gather(
        *(shop.post(f"/v1/orders/{order_no}/refund", json=wish, headers=keyed()) for _ in range(20))
    )

    assert sorted({answer.status_code for answer in answers}) == [202, 409]
    assert await pool.fetchval("select sum(amount_fen) from refund") <= AMOUNT


async def test_closing_asks_the_channels_and_says_so(shop: httpx.AsyncClient, pool: asyncpg.Pool) -> None:
    order_no = await reserve(shop)

    first = await shop.post(f"/v1/orders/{order_no}/close", headers=keyed())
    second = await shop.post(f"/v1/orders/{order_no}/close", headers=keyed())

    assert (first.status_code, first.json()["status"]) == (202, "pending")
    assert (second.status_code, second.json()["reason"]) == (409, "closing-already")
    story = (await shop.get(f"/v1/orders/{order_no}/timeline")).json()
    assert story["closing"] == {"asked": 1, "open": True}
    assert [timer["kind"] for timer in story["timers"]] == ["ask_again", "expire"]


async def test_orders_are_listed_page_by_page_by_status_and_source(shop: httpx.AsyncClient, pool: asyncpg.Pool) -> None:
    orders = [await reserve(shop, external_order_id=f"D-{n}") for n in range(5)]
    other = await reserve(shop, source="pos", external_order_id="P-1")
    await told(pool, paid(orders[0]))

    listed: list[str] = []
    after: str | None = None
    for _ in range(3):
        query = {"status": "pending", "source": "douyin", "limit": 2} | ({"after": after} if after else {})
        answer = (await shop.get("/v1/orders", params=query)).json()
        listed += [row["order_no"] for row in answer["items"]]
        after = answer["next"]
        if after is None:
            break

    assert listed == sorted(orders[1:], reverse=True)
    assert after is None
    assert other not in listed
