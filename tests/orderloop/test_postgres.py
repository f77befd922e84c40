"""Sessions let go of their locks, whatever became of their owner."""

import re
import struct
from collections.abc import Callable

import asyncpg
import pytest

from orderloop.postgres import SESSION
from tests.support.databases import Database


@pytest.mark.parametrize(
    "limit",
    [
        pytest.param("idle_in_transaction_session_timeout", id="between statements"),
        pytest.param("transaction_timeout", id="within a statement"),
    ],
)
async def test_an_owner_that_froze_loses_its_locks(database: Callable[[str], Database], limit: str) -> None:
    url = database("order_core").app_url
    limits = {**SESSION, limit: re.sub("[1-9]0s", "1s", SESSION[limit]), "lock_timeout": "5s"}
    frozen = await asyncpg.connect(url, server_settings=limits)
    other = await asyncpg.connect(url, server_settings={"lock_timeout": "5s"})
    try:
        await frozen.execute("begin; insert into outbox_parked values ('X', 1, 'frozen', now())")
        if limit == "transaction_timeout":
            # Parse and Flush, and never the Sync that would end the statement (PostgreSQL manual, section 54.7).
            query = b"\0select 1\0" + struct.pack("!h", 0)
            frozen._transport.write(  # type: ignore[attr-defined]
                b"P" + struct.pack("!i", len(query) + 4) + query + b"H" + struct.pack("!i", 4)
            )

        await other.execute("insert into outbox_parked values ('X', 2, 'works', now())")  # waits for the same key

        assert await other.fetchval("select reason from outbox_parked") == "works"
    finally:
        frozen.terminate()
        await other.close()
