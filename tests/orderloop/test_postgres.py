"""Sessions let go of their locks, whatever became of their owner."""

import struct
from collections.abc import Callable

import asyncpg

from orderloop.postgres import SESSION
from tests.support.databases import Database


async def test_an_owner_that_froze_between_two_messages_of_a_statement_loses_its_locks(
    database: Callable[[str], Database],
) -> None:
    url = database("order_core").app_url
    sooner = {"30s": "1s"}[SESSION["transaction_timeout"]]
    limits = {**SESSION, "transaction_timeout": sooner, "lock_timeout": "20s"}
    frozen = await asyncpg.connect(url, server_settings=limits)
    other = await asyncpg.connect(url, server_settings=limits)
    try:
        await frozen.execute("begin; insert into outbox_parked values ('X', 1, 'frozen', now())")
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
