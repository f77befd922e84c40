"""order-core encodes order-changed without the model, for speed: its bytes must be the model's all the same."""

import json
from collections.abc import Callable, Sequence
from functools import partial

import asyncpg

from order_core.apply import apply
from order_core.orders import Incoming
from orderloop.asyncapi import PUBLISHES
from orderloop.envelope import Envelope
from orderloop.events import BY_TOPIC, OrderChanged
from orderloop.topics import ORDER_CHANGED
from tests.contracts.compatibility import UNRELEASED
from tests.support.contract import Record, faults
from tests.support.databases import Database
from tests.support.orders import (
    NOW,
    close_asked,
    confirmed,
    labelled,
    paid,
    picked_up,
    refund_asked,
    reserved,
    settled,
    shipped,
    tracked,
)


async def _staged(database: Database, *lives: Sequence[Callable[[str], Incoming]]) -> list[asyncpg.Record]:
    """What orders that live these lives leave in the outbox."""
    conn = await asyncpg.connect(database.app_url)
    try:
        for number, life in enumerate(lives):
            order_no = await reserved(conn, str(number))
            async with conn.transaction():
                await apply(conn, [make(order_no) for make in life], now=NOW)
        return await conn.fetch(
            "select order_no, topic, event_id, occurred_at, traceparent, body from outbox order by id"
        )
    finally:
        await conn.close()


WHOLE_LIFE = (paid, shipped, labelled, picked_up, tracked, confirmed, settled)
UNPAID = (close_asked,)
REFUNDED = (partial(paid, transaction_id="4200002"), refund_asked)


async def test_every_byte_that_order_core_publishes_is_what_the_contract_says(
    database: Callable[[str], Database],
) -> None:
    staged = await _staged(database("order_core"), WHOLE_LIFE, UNPAID, REFUNDED)
    assert {row["topic"] for row in staged} == {*PUBLISHES["order-core"]} - UNRELEASED
    for row in staged:
        envelope = Envelope(
            row["event_id"], "/order-core", row["topic"], row["occurred_at"], row["order_no"], row["traceparent"]
        )
        assert faults(Record(row["topic"], row["order_no"].encode(), envelope.headers(), row["body"])) == []
        event = BY_TOPIC[row["topic"]].decode(row["body"])
        assert json.loads(event.encode()).keys() == json.loads(row["body"]).keys()


async def test_a_life_is_told_in_versions_that_continue_each_other(database: Callable[[str], Database]) -> None:
    staged = await _staged(database("order_core"), WHOLE_LIFE)
    told = [OrderChanged.decode(row["body"]) for row in staged if row["topic"] == ORDER_CHANGED]
    assert [change.version for change in told] == list(range(1, 9))
    assert [change.from_ for change in told] == [None, *(change.to for change in told[:-1])]
    assert told[-1].to == "completed"
    assert [row["event_id"] for row in staged if row["topic"] == ORDER_CHANGED] == [
        f"{change.order_no}:{change.version}" for change in told
    ]
