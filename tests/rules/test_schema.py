"""The tables: those that services share are the same everywhere, and the write path is keyed by order."""

from collections.abc import Callable

import asyncpg
import pytest

from tests.rules.source import DATABASES, SERVICES, SHARED, migrations
from tests.support.databases import Database

# Not keyed by order_no on purpose: what finds or fences an order_no across orders, the relay's queue, and records that
# may have no order_no.
NOT_BY_ORDER = {"reservation", "payment_claim", "idempotency", "outbox", "schema_migration", "dead_letter"}


def _shared(table: str) -> str:
    return (SHARED / "sql" / f"{table}.sql").read_text(encoding="utf-8").strip()


@pytest.mark.parametrize("package", SERVICES)
def test_the_outbox_is_the_shared_one_word_for_word(package: str) -> None:
    assert _shared("outbox") in migrations(package)


@pytest.mark.parametrize("package", [package for package in SERVICES if "create table inbox" in migrations(package)])
def test_the_inbox_is_the_shared_one_word_for_word(package: str) -> None:
    shared = _shared("inbox")
    if package == "order_core":  # cut into months
        shared = shared.removesuffix(";") + " partition by range (order_no);"
    assert shared in migrations(package)


async def _keys(database: Database) -> dict[str, list[str]]:
    """The primary key's columns of every table that is no partition."""
    conn = await asyncpg.connect(database.admin_url)
    try:
        rows = await conn.fetch(
            "select c.relname, array_remove(array_agg(a.attname::text order by a.attnum), null) as columns"
            " from pg_class c left join pg_index i on i.indrelid = c.oid and i.indisprimary"
            " left join pg_attribute a on a.attrelid = c.oid and a.attnum = any(i.indkey)"
            " where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition"
            " group by c.relname"
        )
    finally:
        await conn.close()
    return {row["relname"]: row["columns"] for row in rows}


async def test_every_table_of_the_write_path_is_keyed_by_order(database: Callable[[str], Database]) -> None:
    keys = await _keys(database("order_core"))
    assert {table for table, columns in keys.items() if "order_no" not in columns} <= NOT_BY_ORDER


async def _rules_without_the_order(database: Database) -> set[str]:
    """Unique rules that could not be checked where an order's rows lie, and foreign keys that could lead elsewhere."""
    conn = await asyncpg.connect(database.admin_url)
    try:
        rows = await conn.fetch(
            """
            with rule as (
                select i.indrelid as relid, ic.relname as name, i.indkey::int2[] as columns
                from pg_index i join pg_class ic on ic.oid = i.indexrelid
                where i.indisunique
                union all
                select conrelid, conname, conkey from pg_constraint where contype = 'f'
            )
            select c.relname || ': ' || r.name as rule
            from rule r
            join pg_class c on c.oid = r.relid
            where c.relnamespace = 'public'::regnamespace and not c.relispartition and c.relname <> all($1)
              and not exists (select from pg_attribute a
                              where a.attrelid = c.oid and a.attnum = any(r.columns) and a.attname = 'order_no')
            """,
            list(NOT_BY_ORDER),
        )
    finally:
        await conn.close()
    return {row["rule"] for row in rows}


async def test_every_unique_rule_and_foreign_key_of_the_write_path_names_the_order(
    database: Callable[[str], Database],
) -> None:
    """What a distributed PostgreSQL needs to keep an order's rows together (docs/adr/0010)."""
    assert await _rules_without_the_order(database("order_core")) == set()


async def test_a_planted_rule_without_the_order_would_be_found(database: Callable[[str], Database]) -> None:
    planted = database("order_core")
    owner = await asyncpg.connect(planted.owner_url)
    try:
        await owner.execute(
            """create unique index planted on parcel (waybill_no);
               create table kind (name text primary key, order_no text);
               alter table anomaly add constraint elsewhere foreign key (kind) references kind (name)"""
        )
    finally:
        await owner.close()
    assert await _rules_without_the_order(planted) == {"parcel: planted", "anomaly: elsewhere", "kind: kind_pkey"}


async def test_a_planted_table_with_another_key_would_be_found(database: Callable[[str], Database]) -> None:
    planted = database("order_core")
    owner = await asyncpg.connect(planted.owner_url)
    try:
        await owner.execute("create table planted (id bigint primary key, order_no text)")
    finally:
        await owner.close()
    assert (await _keys(planted))["planted"] == ["id"]


@pytest.mark.parametrize("name", DATABASES)
async def test_order_numbers_compare_bytewise_everywhere(name: str, database: Callable[[str], Database]) -> None:
    """Ranges of them are months, and sorted locks must sort alike in Python and in PostgreSQL."""
    conn = await asyncpg.connect(database(name).admin_url)
    try:
        rows = await conn.fetch(
            "select c.relname from pg_attribute a join pg_class c on c.oid = a.attrelid"
            " join pg_collation l on l.oid = a.attcollation"
            " where a.attname = 'order_no' and c.relkind in ('r', 'p') and l.collname <> 'C'"
        )
    finally:
        await conn.close()
    assert [row["relname"] for row in rows] == []
