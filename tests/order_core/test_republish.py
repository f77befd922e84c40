"""After a restore: what the log says is published again, the same events under the same ids."""

from datetime import timedelta

import asyncpg

from order_core.apply import apply
from order_core.orders import Incoming, Resettle, Retrack
from order_core.republish import republish
from orderloop.events import BY_TOPIC, SettlementStatus
from tests.support.databases import Database
from tests.support.orders import (
    NOW,
    close_asked,
    close_told,
    confirmed,
    labelled,
    paid,
    refund_asked,
    refund_told,
    reserved,
    settled,
    shipped,
    tracked,
)


async def told(conn: asyncpg.Connection, *events: Incoming) -> None:
    for event in events:
        async with conn.transaction():
            await apply(conn, [event], now=NOW)


async def staged(conn: asyncpg.Connection) -> list[tuple[str, str, dict[str, object]]]:
    """What is in the outbox, decoded by the models, in the order of each order's story."""
    rows = await conn.fetch("select order_no, topic, event_id, body from outbox order by order_no, id")
    return [(r["topic"], r["event_id"], BY_TOPIC[r["topic"]].decode(r["body"])) for r in rows]


async def test_everything_is_published_again_as_it_was(
    conn: asyncpg.Connection, pool: asyncpg.Pool, order_core: Database
) -> None:
    whole, closed = await reserved(conn, "1"), await reserved(conn, "2")
    await told(conn, paid(whole, "1"), shipped(whole), labelled(whole), refund_asked(whole, 900))
    await told(conn, Incoming(whole, "look", "retrack", "ops:li", NOW, Retrack("zto", "7312")))
    await told(conn, refund_told(whole, 1, amount_fen=900, transaction_id="1"), tracked(whole), confirmed(whole))
    await told(conn, settled(whole, SettlementStatus.FAILED, amount_fen=9000))
    await told(conn, Incoming(whole, "again", "resettle", "ops:li", NOW, Resettle()))
    await told(conn, settled(whole, attempt=2, amount_fen=9000), refund_asked(whole, key="2"))
    await told(conn, close_asked(closed), close_told(closed), paid(closed, "2"))
    before = await staged(conn)
    await conn.execute("delete from outbox")

    count = await republish(pool, since=NOW)

    assert await staged(conn) == before
    assert count == len(before)
    assert {topic.split(".")[1] for topic, _, _ in before} == {
        "order-changed",
        "shipment-requested",
        "settlement-requested",
        "close-requested",
        "refund-requested",
        "tracking-requested",
    }


async def test_only_what_was_recorded_since_then(conn: asyncpg.Connection, pool: asyncpg.Pool) -> None:
    order_no = await reserved(conn)
    async with conn.transaction():
        await apply(conn, [paid(order_no)], now=NOW + timedelta(minutes=5))
    await conn.execute("delete from outbox")

    assert await republish(pool, since=NOW + timedelta(minutes=1)) == 1
    assert await republish(pool, since=NOW + timedelta(minutes=6)) == 0
