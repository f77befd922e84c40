"""The inbox: which events have been taken in (sql/inbox.sql is its table)."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import aiosql

from .postgres import Connection, column

EventKey = tuple[str, str]  # order_no, event id: what makes an event the same event

_sql: Any = aiosql.from_path(Path(__file__).with_suffix(".sql"), "asyncpg")


async def claim(conn: Connection, keys: Iterable[EventKey]) -> set[EventKey]:
    """Remember the events as applied; return those of them that had not been applied before.

    Belongs into the transaction of the effect: if that fails, the claim is gone with it.
    """
    ordered = sorted(set(keys))
    rows = _sql.claim(
        conn,
        order_nos=column([order_no for order_no, _ in ordered]),
        event_ids=column([event_id for _, event_id in ordered]),
    )
    return {(row["order_no"], row["event_id"]) async for row in rows}
