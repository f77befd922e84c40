import asyncio
import random

import asyncpg
import pytest

from orderloop.ids import new_order_no
from orderloop.inbox import EventKey, claim
from tests.support.kafka import AT


async def test_a_key_is_new_once(pool: asyncpg.Pool, order_no: str) -> None:
    async with pool.acquire() as conn:
        assert await claim(conn, [(order_no, "a")]) == {(order_no, "a")}
        assert await claim(conn, [(order_no, "a"), (order_no, "b")]) == {(order_no, "b")}


async def test_duplicates_inside_a_batch_count_once(pool: asyncpg.Pool, order_no: str) -> None:
    async with pool.acquire() as conn:
        assert await claim(conn, [(order_no, "a")] * 3) == {(order_no, "a")}
        assert await conn.fetchval("select count(*) from inbox") == 1


async def test_the_same_id_of_another_order_is_another_event(pool: asyncpg.Pool, order_no: str) -> None:
    other = new_order_no(AT)
    async with pool.acquire() as conn:
        assert await claim(conn, [(order_no, "a"), (other, "a")]) == {(order_no, "a"), (other, "a")}


async def test_nothing_to_claim_is_nothing_claimed(pool: asyncpg.Pool) -> None:
    async with pool.acquire() as conn:
        assert await claim(conn, []) == set()


async def test_a_claim_goes_with_its_transaction(pool: asyncpg.Pool, order_no: str) -> None:
    async with pool.acquire() as conn:
        transaction = conn.transaction()
        await transaction.start()
        await claim(conn, [(order_no, "a")])
        await transaction.rollback()

        assert await claim(conn, [(order_no, "a")]) == {(order_no, "a")}


@pytest.mark.parametrize(("outcome", "again"), [("applied", False), ("waiting", True), ("parked", True)])
async def test_only_what_was_applied_makes_a_repeat_a_duplicate(
    pool: asyncpg.Pool, order_no: str, outcome: str, again: bool
) -> None:
    async with pool.acquire() as conn:
        await conn.execute("insert into inbox (order_no, event_id, outcome) values ($1, 'a', $2)", order_no, outcome)

        assert (await claim(conn, [(order_no, "a")]) == {(order_no, "a")}) is again
        assert await conn.fetchval("select outcome from inbox") == "applied"


async def test_two_transactions_at_once_cannot_both_have_it(pool: asyncpg.Pool, order_no: str) -> None:
    key = (order_no, "a")
    async with pool.acquire() as first, pool.acquire() as second:
        transaction = first.transaction()
        await transaction.start()
        assert await claim(first, [key]) == {key}
        waiting = asyncio.create_task(claim(second, [key]))
        await transaction.commit()

        assert await waiting == set()


async def test_batches_that_overlap_in_any_order_never_deadlock(pool: asyncpg.Pool) -> None:
    keys: list[EventKey] = [(new_order_no(AT), f"e{n}") for n in range(60) for _ in range(3)]
    claimed: list[EventKey] = []

    async def worker(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(15):
            some = chance.sample(keys, 40)
            async with pool.acquire() as conn, conn.transaction():
                claimed.extend(await claim(conn, some))

    await asyncio.gather(*(worker(seed) for seed in range(6)))

    assert len(claimed) == len(set(claimed))
