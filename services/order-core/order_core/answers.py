"""What requests were answered: the memory behind Idempotency-Key, and the access log. One function per query."""

from pathlib import Path
from typing import Any

import aiosql
import asyncpg

from orderloop.postgres import Connection

_sql: Any = aiosql.from_path(Path(__file__).with_suffix(".sql"), "asyncpg")


async def claim_key(conn: Connection, *, caller: str, route: str, key: str, body_hash: bytes) -> bool:
    """Whether this request is the first with its key."""
    return await _sql.claim_key(conn, caller=caller, route=route, key=key, body_hash=body_hash) is not None


async def answered(conn: Connection, *, caller: str, route: str, key: str) -> asyncpg.Record | None:
    return await _sql.answered(conn, caller=caller, route=route, key=key)


async def answer_key(conn: Connection, *, caller: str, route: str, key: str, status: int, answer: bytes) -> None:
    await _sql.answer_key(conn, caller=caller, route=route, key=key, status=status, answer=answer)


async def log_access(conn: Connection, *, order_no: str, request_id: str, route: str, caller: str, status: int) -> None:
    await _sql.log_access(conn, order_no=order_no, request_id=request_id, route=route, caller=caller, status=status)
