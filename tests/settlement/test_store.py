"""The schema and the queries agree, and the database's roles can do what they need and no more."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiosql
import asyncpg
import pytest

from orderloop_lab.databases import url_for
from settlement import store
from tests.settlement.conftest import House, request_for
from tests.support.databases import Database

SQL: Any = aiosql.from_path(Path(store.__file__).with_name("store.sql"), "asyncpg")
QUERIES = [name for name in SQL.available_queries if not name.endswith("_cursor")]
TABLES = ("settlement", "payout", "bank_call", "settlement_timer", "inbox", "outbox", "outbox_parked")


@pytest.fixture
async def finance(
    house: House, order_no: str, settlement_database: Database, postgres_admin_url: str
) -> AsyncIterator[asyncpg.Connection]:
    await house.take_in(request_for(order_no))
    url = url_for(postgres_admin_url, role="finance_ro", database=settlement_database.name)
    conn = await asyncpg.connect(url)
    yield conn
    await conn.close()


async def test_every_named_query_fits_the_migrated_schema(pool: asyncpg.Pool) -> None:
    async with pool.acquire() as conn:
        for name in QUERIES:
            await conn.prepare(getattr(SQL, name).sql)


async def test_finance_sees_the_settlements(finance: asyncpg.Connection, order_no: str) -> None:
    row = await finance.fetchrow("select order_no, status, amount_fen from finance.settlement")

    assert dict(row or {}) == {"order_no": order_no, "status": "requested", "amount_fen": 9_900}


async def test_finance_reads_no_table(finance: asyncpg.Connection) -> None:
    for table in TABLES:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await finance.fetch(f"select * from {table}")  # noqa: S608


async def test_finance_changes_nothing(finance: asyncpg.Connection) -> None:
    for statement in ("update finance.settlement set status = 'success'", "delete from finance.settlement"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await finance.execute(statement)


async def test_the_service_deletes_nothing_but_what_is_done(pool: asyncpg.Pool) -> None:
    allowed = {
        table: {
            verb
            for verb in ("select", "insert", "update", "delete", "truncate")
            if await pool.fetchval("select has_table_privilege(current_user, $1, $2)", table, verb)
        }
        for table in TABLES
    }

    # an update of single columns, which most tables allow, is not the table's
    usual = {"select", "insert"}
    assert allowed == dict.fromkeys(TABLES, usual) | {
        "settlement_timer": usual | {"update", "delete"},
        "outbox": usual | {"delete"},
    }


@pytest.mark.parametrize(
    "change", ["amount_fen = 1", "order_no = 'x'", "instruction_id = 'x'", "transaction_ids = '{}'"]
)
async def test_the_service_cannot_change_what_was_asked_for(pool: asyncpg.Pool, change: str) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await pool.execute(f"update settlement set {change}")  # noqa: S608


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ("status = 'success', sent_at = now()", "success_has_its_time"),
        ("status = 'processing'", "nothing_is_heard_before_it_is_sent"),
        ("status = 'lost', sent_at = now()", "status_is_known"),
    ],
)
async def test_the_database_refuses_a_settlement_that_cannot_be(
    house: House, order_no: str, change: str, rule: str
) -> None:
    await house.take_in(request_for(order_no))

    with pytest.raises(asyncpg.CheckViolationError, match=rule):
        await house.pool.execute(f"update settlement set {change}")  # noqa: S608
