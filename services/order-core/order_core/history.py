"""Reading an order's past and present. One function per query in history.sql."""

from pathlib import Path
from typing import Any

import aiosql
import asyncpg

from orderloop.postgres import Connection

_sql: Any = aiosql.from_path(Path(__file__).with_suffix(".sql"), "asyncpg")


async def order_by_number(conn: Connection, order_no: str) -> asyncpg.Record | None:
    return await _sql.order_by_number(conn, order_no=order_no)


_LOOKED_AT = 20_000  # orders that one page looks at, at most: some 20 ms


async def page(
    conn: Connection, *, status: str | None, source: str | None, after: str | None, most: int
) -> tuple[list[asyncpg.Record], str | None]:
    """Orders, newest first, and where the next page begins (None: there is nothing more). A page may be short."""
    query = {"after": after, "looked_at": _LOOKED_AT}
    rows = [row async for row in _sql.page(conn, status=status, source=source, most=most, **query)]
    if len(rows) == most:
        return rows, rows[-1]["order_no"]
    return rows, await _sql.further(conn, **query)


async def log_of(conn: Connection, order_no: str) -> list[asyncpg.Record]:
    return [row async for row in _sql.log_of(conn, order_no=order_no)]


async def anomalies_of(conn: Connection, order_no: str) -> list[asyncpg.Record]:
    return [row async for row in _sql.anomalies_of(conn, order_no=order_no)]


async def waiting_of(conn: Connection, order_no: str) -> list[asyncpg.Record]:
    return [row async for row in _sql.waiting_of(conn, order_no=order_no)]


async def shipment_of(conn: Connection, order_no: str) -> asyncpg.Record | None:
    return await _sql.shipment_of(conn, order_no=order_no)
