"""What customer service sees: from Redis for two hours, from the database otherwise, never from a courier."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime

import asyncpg
import httpx
import pytest_asyncio
from redis.asyncio import Redis

from logistics_poller.http import routes
from logistics_poller.poll import Poller
from logistics_poller.schedule import Plans
from logistics_poller.snapshots import Snapshots, connect
from orderloop.health import Health
from orderloop.http import create_app
from orderloop_lab.home import free_port
from tests.support.logistics import HOUR, MovableClock, Outside, new_order, take_in, waybill_created


@pytest_asyncio.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(redis_url) as redis:
        yield redis


async def polled(
    pool: asyncpg.Pool, client: httpx.AsyncClient, outside: Outside, redis: Redis, waybill_no: str, *faults: str
) -> None:
    """A parcel that has been asked for once, with this Redis at hand."""
    label_at = datetime.now(UTC) - 60 * HOUR
    outside.travels(waybill_no, "zto", label_at=label_at, faults=faults)
    await take_in(pool, (waybill_created(new_order(), waybill_no, created_at=label_at), "printed"))
    await Poller(pool, outside.couriers(client), Snapshots(redis), clock=MovableClock(), plans=Plans()).run_due()


async def look_up(pool: asyncpg.Pool, redis: Redis, waybill_no: str) -> httpx.Response:
    app = create_app("logistics-poller", title="t", description="t", health=Health())
    routes(app, pool, Snapshots(redis))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as http:
        return await http.get(f"/v1/logistics/zto/{waybill_no}")


async def test_a_snapshot_lives_for_two_hours_under_its_documented_key(
    pool: asyncpg.Pool, client: httpx.AsyncClient, outside: Outside, redis: Redis
) -> None:
    await polled(pool, client, outside, redis, "780000110001")
    assert 7100 < await redis.ttl("logistics:zto:780000110001") <= 7200


async def test_a_look_up_never_costs_an_ask(
    pool: asyncpg.Pool, client: httpx.AsyncClient, outside: Outside, redis: Redis
) -> None:
    await polled(pool, client, outside, redis, "780000110002")
    kept = await look_up(pool, redis, "780000110002")
    await redis.delete("logistics:zto:780000110002")
    flushed = await look_up(pool, redis, "780000110002")

    assert kept.json()["told_by"] == "snapshot"
    assert flushed.json()["told_by"] == "database"
    assert {k: v for k, v in kept.json().items() if k != "told_by"} == {
        k: v for k, v in flushed.json().items() if k != "told_by"
    }
    assert kept.json()["status"] == "delivered"
    assert [scan["status"] for scan in kept.json()["scans"]][:2] == ["delivered", "delivering"]  # newest first
    assert outside.asks("780000110002") == 1


async def test_without_redis_polls_go_on_and_the_database_answers(
    pool: asyncpg.Pool, client: httpx.AsyncClient, outside: Outside
) -> None:
    async with connect(f"redis://127.0.0.1:{free_port()}") as away:
        await polled(pool, client, outside, away, "780000110003")
        answer = await look_up(pool, away, "780000110003")
    assert (answer.json()["status"], answer.json()["told_by"]) == ("delivered", "database")


async def test_rubbish_in_redis_is_not_believed(
    pool: asyncpg.Pool, client: httpx.AsyncClient, outside: Outside, redis: Redis
) -> None:
    await polled(pool, client, outside, redis, "780000110004", "silent")
    await redis.set("logistics:zto:780000110004", '{"status": "delivered"}')
    answer = (await look_up(pool, redis, "780000110004")).json()
    assert (answer["told_by"], answer["status"], answer["answer"]) == ("database", "silent", "nothing_yet")


async def test_a_parcel_that_was_not_asked_for_yet_says_so(pool: asyncpg.Pool, redis: Redis) -> None:
    await take_in(pool, (waybill_created(new_order(), "780000110005", created_at=datetime.now(UTC)), "printed"))
    answer = (await look_up(pool, redis, "780000110005")).json()
    assert (answer["status"], answer["answer"], answer["answered_at"]) == ("label_printed", "never_answered", None)


async def test_an_unknown_parcel_is_a_problem_with_a_name(pool: asyncpg.Pool, redis: Redis) -> None:
    answer = await look_up(pool, redis, "780000119999")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["type"].endswith("/unknown-parcel")
