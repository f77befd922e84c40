"""Where the relay's reading may begin, and what is told of the rows that wait."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from orderloop import metrics
from orderloop.backlog import Mark, Watch
from orderloop.ids import new_order_no
from orderloop.outbox import Staged, stage
from tests.support.kafka import AT, tracked


async def put(conn: asyncpg.Connection, count: int = 1) -> list[int]:
    """Stages rows in a transaction of their own, or in the one that runs; returns their ids."""
    orders = [new_order_no(AT) for _ in range(count)]
    await stage(conn, [Staged(tracked(one), f"{one}:1", AT) for one in orders])
    rows = await conn.fetch("select id from outbox where order_no = any($1) order by id", orders)
    return [row["id"] for row in rows]


async def publish(conn: asyncpg.Connection, mark: Mark, ids: list[int]) -> None:
    await conn.execute("delete from outbox where id = any($1)", ids)
    for _ in range(2):
        await mark.follow(conn, ids[-1])


@pytest.fixture
async def relay(pool: asyncpg.Pool) -> AsyncIterator[asyncpg.Connection]:
    async with pool.acquire() as conn:
        yield conn


@asynccontextmanager
async def writing(pool: asyncpg.Pool) -> AsyncIterator[tuple[asyncpg.Connection, list[int]]]:
    """A transaction that has staged a row and is not over; its connection, and the row's id."""
    async with pool.acquire() as conn, conn.transaction():
        yield conn, await put(conn)


async def test_reading_begins_behind_what_was_published(relay: asyncpg.Connection) -> None:
    mark = Mark(every=10)
    await publish(relay, mark, ids := await put(relay, 10))
    assert mark.id == ids[-1]


async def test_an_id_that_was_drawn_earlier_and_is_committed_later_is_still_read(
    pool: asyncpg.Pool, relay: asyncpg.Connection
) -> None:
    mark = Mark(every=1)
    await publish(relay, mark, before := await put(relay))
    async with writing(pool) as (_, [late]):
        await publish(relay, mark, ids := await put(relay, 10))
        assert mark.id == before[-1] < late < ids[0]
    await mark.follow(relay, ids[-1])
    assert mark.id == late - 1

    await publish(relay, mark, [late])
    await publish(relay, mark, ids)
    assert mark.id == ids[-1]


async def test_an_id_that_was_rolled_back_is_not_waited_for(pool: asyncpg.Pool, relay: asyncpg.Connection) -> None:
    mark = Mark(every=1)
    async with pool.acquire() as conn:
        transaction = conn.transaction()
        await transaction.start()
        await put(conn)
        await transaction.rollback()
    await publish(relay, mark, ids := await put(relay))
    assert mark.id == ids[-1]


async def test_neither_an_old_snapshot_nor_a_writer_of_other_tables_keeps_it_back(
    pool: asyncpg.Pool, relay: asyncpg.Connection
) -> None:
    mark = Mark(every=1)
    async with pool.acquire() as reader, reader.transaction(isolation="repeatable_read"):
        await reader.execute("select count(*) from outbox")
        async with pool.acquire() as writer, writer.transaction():
            await writer.execute("insert into story values ('x', 0)")
            await publish(relay, mark, ids := await put(relay))
    assert mark.id == ids[-1]


async def test_a_row_that_stays_keeps_it_below_itself(relay: asyncpg.Connection) -> None:
    mark = Mark(every=1)
    stays, *ids = await put(relay, 10)
    await publish(relay, mark, ids)
    assert mark.id == stays - 1


async def test_ids_are_not_drawn_before_the_table_is_locked_for_writing(relay: asyncpg.Connection) -> None:
    """A sequence that caches would hand a session ids that an earlier transaction of it has drawn."""
    assert await relay.fetchval("select cache_size from pg_sequences where sequencename = 'outbox_id_seq'") == 1


async def test_rows_that_wait_and_the_age_of_the_oldest_are_told(relay: asyncpg.Connection) -> None:
    now = iter(range(0, 1000, 10))
    watch, mark = Watch(clock=lambda: next(now)), Mark(every=1)

    async def told() -> tuple[float, float, float]:
        await watch.look(relay, mark)
        return tuple(gauge._value.get() for gauge in (metrics.OUTBOX_ROWS, metrics.OUTBOX_AGE, metrics.OUTBOX_PARKED))

    assert await told() == (0, 0, 0)
    old = await put(relay, 3)
    assert await told() == (3, 0, 0)
    young = await put(relay)
    assert [await told(), await told()] == [(4, 10, 0), (4, 20, 0)]
    await relay.execute("delete from outbox where id = any($1)", old)
    assert await told() == (1, 20, 0)
    await relay.execute("insert into outbox_parked select order_no, id, 'test' from outbox where id = any($1)", young)
    assert await told() == (0, 0, 1)
