"""What people type: `order-core explain` and `order-core republish`, in processes of their own."""

import asyncio
import subprocess
import sys

import asyncpg

from order_core.apply import apply
from tests.support.databases import Database
from tests.support.orders import NOW, paid, reserved


async def run(database: Database, *arguments: str) -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "order_core", *arguments),
        env={"ORDERLOOP_POSTGRES_URL": database.app_url, "COLUMNS": "200", "PATH": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    return process.returncode, said.decode()


async def test_an_order_is_explained_in_the_language_asked_for(conn: asyncpg.Connection, order_core: Database) -> None:
    order_no = await reserved(conn)

    status, story = await run(order_core, "explain", order_no, "--lang", "zh")

    assert status == 0
    assert story.startswith(f"订单 {order_no}: 待支付")


async def test_what_the_log_says_is_staged_again_and_counted_and_a_time_needs_an_offset(
    conn: asyncpg.Connection, order_core: Database
) -> None:
    order_no = await reserved(conn)
    async with conn.transaction():
        await apply(conn, [paid(order_no)], now=NOW)
    await conn.execute("delete from outbox")

    (done, said), (refused, why) = await asyncio.gather(
        run(order_core, "republish", "--since", NOW.isoformat()),
        run(order_core, "republish", "--since", NOW.replace(tzinfo=None).isoformat()),
    )

    assert (done, refused) == (0, 2)
    assert "2 events staged again" in said
    assert "has no offset" in why
    rows = await conn.fetch("select event_id from outbox order by id")
    assert [row["event_id"] for row in rows] == [f"{order_no}:1", f"{order_no}:2"]
