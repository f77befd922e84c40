"""The queries against the migrated schema, and what the service's own role may not do."""

from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
import pytest_asyncio

from payment_callback import store
from tests.support.databases import Database


@pytest.fixture
def db(database: Callable[[str], Database]) -> Database:
    return database("payment_callback")


@pytest_asyncio.fixture
async def app(db: Database) -> AsyncIterator[asyncpg.Connection]:
    conn = await asyncpg.connect(db.app_url)
    yield conn
    await conn.close()


@pytest_asyncio.fixture
async def owner(db: Database) -> AsyncIterator[asyncpg.Connection]:
    conn = await asyncpg.connect(db.owner_url)
    yield conn
    await conn.close()


@pytest.mark.parametrize(
    "name",
    ["remember", "log", "search", "ensure_days", "remembered", "one", "drop_day", "forget", "hold", "release", "holds"],
)
async def test_every_query_fits_the_schema(app: asyncpg.Connection, name: str) -> None:
    await app.prepare(getattr(store.queries, name).sql)


@pytest.mark.parametrize("table", ["callback_log", "callback_memory"])
@pytest.mark.parametrize("verb", ["update {} set body = null", "delete from {}", "truncate {}", "drop table {}"])
async def test_the_service_can_neither_change_nor_remove_what_it_has_written(
    app: asyncpg.Connection, table: str, verb: str
) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await app.execute(verb.format(table))


async def test_the_service_cannot_reach_around_into_a_partition(app: asyncpg.Connection) -> None:
    partition = f"callback_log_{datetime.now(UTC):%Y%m%d}"

    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await app.execute(f"delete from {partition}")  # noqa: S608


async def test_the_days_ahead_are_made_once_by_the_service_itself(
    app: asyncpg.Connection, owner: asyncpg.Connection
) -> None:
    made = await store.ensure_days(app, 14)
    again = await store.ensure_days(app, 14)

    assert (made, again) == (7, 0)
    last = datetime.now(UTC) + timedelta(days=14)
    await owner.execute(
        "insert into callback_log (received_at, channel, verdict, status, headers, order_nos, transaction_ids, "
        "event_ids) values ($1, 'wechat', 'noted', 204, '{}', '{}', '{}', '{}')",
        last,
    )
    assert await app.fetchval("select count(*) from callback_log") == 1


async def test_a_search_by_order_reads_indexes_and_not_the_whole_log(
    app: asyncpg.Connection, owner: asyncpg.Connection
) -> None:
    await owner.execute(
        "insert into callback_log (channel, verdict, status, headers, order_nos, transaction_ids, event_ids) "
        "select 'wechat', 'accepted', 204, '{}', array['order' || n], array['t' || n], array['e' || n] "
        "from generate_series(1, 20000) n"
    )
    await owner.execute("analyze callback_log")
    now = datetime.now(UTC)

    for order_no, transaction_id in (("order77", None), (None, "t77")):
        plan = await app.fetch(
            "explain " + store.queries.search.sql,
            *(order_no, transaction_id, None, None, now - timedelta(days=7), now + timedelta(days=1), None, None, 50),
        )
        text = "\n".join(row[0] for row in plan)
        assert f"Seq Scan on callback_log_{now:%Y%m%d}" not in text, text
