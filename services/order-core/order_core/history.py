"""Reading an order's past and present. One function per query in history.sql."""

from pathlib import Path
from typing import Any

import aiosql
import asyncpg

from orderloop.postgres import Connection

_sql: Any = aiosql.from_path(Path(__file__).with_suffix(".sql"), "asyncpg")


async def order_by_number(conn: Connection, order_no: str) -> asyncpg.Record | None:
    return await _sql.order_by_number(conn, order_no=order_no)


async def log_of(conn: Connection, order_no: str) -> list[asyncpg.Record]:
    return [row async for row in _sql.log_of(conn, order_no=order_no)]


async def anomalies_of(conn: Connection, order_no: str) -> list[asyncpg.Record]:
    return [row async for row in _sql.anomalies_of(conn, order_no=order_no)]


async def shipment_of(conn: Connection, order_no: str) -> asyncpg.Record | None:
    return await _sql.shipment_of(conn, order_no=order_no)
