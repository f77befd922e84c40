"""Every query fits the migrated schema, and the app role may do what it must and no more."""

from typing import Any, cast

import asyncpg
import pytest

from logistics_poller import store


def queries() -> list[str]:
    return sorted(name for name in store._sql.available_queries if not name.endswith("_cursor"))  # pyright: ignore


@pytest.mark.parametrize("name", queries())
async def test_a_query_fits_the_schema(pool: asyncpg.Pool, name: str) -> None:
    async with pool.acquire() as conn:
        await conn.prepare(cast("Any", getattr(store._sql, name)).sql)  # pyright: ignore


@pytest.mark.parametrize(
    "statement",
    [
        "delete from inbox",
        "update inbox set order_no = 'x'",
        "delete from shipment",
        "delete from parcel",
        "update parcel_scan set text = 'x'",
        "update outbox set topic = 'x'",
        "drop table parcel",
        "create table mine (a int)",
    ],
)
async def test_the_app_role_may_not(pool: asyncpg.Pool, statement: str) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await pool.execute(statement)
