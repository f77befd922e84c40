"""Every named query fits the migrated schema, and the service's own role may run it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiosql
import asyncpg
import pytest

from tests.rules.source import DATABASES, SERVICES, SHARED, migrations, sql
from tests.support.databases import Database

# Run with the owner's rights, by a command of its own.
OF_THE_OWNER = {"retention.sql"}


def _files(package: str) -> list[Path]:
    own = [path for path in sql(SERVICES[package]) if path.parent.name != "migrations"]
    has_inbox = "create table inbox" in migrations(package)
    shared = ["outbox.sql", "backlog.sql", *(["inbox.sql"] if has_inbox else [])]
    return [*own, *(SHARED / name for name in shared)]


def _queries(path: Path) -> Iterator[tuple[str, str]]:
    queries: Any = aiosql.from_path(path, "asyncpg")
    for name in queries.available_queries:
        if not name.endswith("_cursor"):  # aiosql's second face of the same query
            yield f"{path.name}: {name}", getattr(queries, name).sql


async def _complaints(conn: asyncpg.Connection, queries: Iterator[tuple[str, str]]) -> list[str]:
    """PREPARE finds what does not exist, EXPLAIN what is not allowed; neither runs anything."""
    found: list[str] = []
    for name, text in queries:
        try:
            await conn.prepare(text)
            await conn.execute(f"explain (generic_plan) {text}")
        except asyncpg.PostgresError as error:
            found.append(f"{name}: {error}")
    return found


@pytest.mark.parametrize("name", DATABASES)
async def test_every_named_query_fits_the_schema_and_the_role(name: str, database: Callable[[str], Database]) -> None:
    of_test = database(name)
    for path in _files(DATABASES[name]):
        conn = await asyncpg.connect(of_test.owner_url if path.name in OF_THE_OWNER else of_test.app_url)
        try:
            assert await _complaints(conn, _queries(path)) == []
        finally:
            await conn.close()


async def test_a_planted_misfit_would_be_found(database: Callable[[str], Database], tmp_path: Path) -> None:
    planted = tmp_path / "planted.sql"
    planted.write_text(
        "-- name: misspelt(order_no)\nselect sttus from orders where order_no = :order_no;\n\n"
        "-- name: forbidden(order_no)!\ndelete from order_log where order_no = :order_no;\n"
    )
    conn = await asyncpg.connect(database("order_core").app_url)
    try:
        complaints = await _complaints(conn, _queries(planted))
    finally:
        await conn.close()
    assert [complaint.partition(": ")[2].partition(":")[0] for complaint in complaints] == ["forbidden", "misspelt"]
