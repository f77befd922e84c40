"""order-core encodes order-changed without the model, for speed: its bytes must be the model's all the same."""

import json
from collections.abc import Callable

import asyncpg
import jsonschema_rs

from order_core.apply import apply
from orderloop.asyncapi import schema
from orderloop.events import BY_TOPIC, OrderChanged
from orderloop.topics import ORDER_CHANGED, SETTLEMENT_REQUESTED, SHIPMENT_REQUESTED
from tests.support.databases import Database
from tests.support.orders import NOW, confirmed, labelled, paid, picked_up, reserved, settled, shipped, tracked


async def _staged_by_a_whole_life(database: Database) -> list[asyncpg.Record]:
    conn = await asyncpg.connect(database.app_url)
    try:
        order_no = await reserved(conn)
        life = [make(order_no) for make in (paid, shipped, labelled, picked_up, tracked, confirmed, settled)]
        async with conn.transaction():
            await apply(conn, life, now=NOW)
        return await conn.fetch("select topic, event_id, body from outbox order by id")
    finally:
        await conn.close()


async def test_every_byte_that_a_whole_life_publishes_is_what_the_schema_says(
    database: Callable[[str], Database],
) -> None:
    staged = await _staged_by_a_whole_life(database("order_core"))
    assert {row["topic"] for row in staged} == {ORDER_CHANGED, SHIPMENT_REQUESTED, SETTLEMENT_REQUESTED}
    for row in staged:
        event = BY_TOPIC[row["topic"]]
        validator = jsonschema_rs.validator_for(schema(event), validate_formats=True)
        body = json.loads(row["body"])
        validator.validate(body)
        # and nothing beside it: a field that the contract does not name would be a promise nobody knows of
        assert body.keys() <= schema(event)["properties"].keys()
        assert json.loads(event.decode(row["body"]).encode()).keys() == body.keys()


async def test_a_life_is_told_in_versions_that_continue_each_other(database: Callable[[str], Database]) -> None:
    staged = await _staged_by_a_whole_life(database("order_core"))
    told = [OrderChanged.decode(row["body"]) for row in staged if row["topic"] == ORDER_CHANGED]
    assert [change.version for change in told] == list(range(1, 9))
    assert [change.from_ for change in told] == [None, *(change.to for change in told[:-1])]
    assert told[-1].to == "completed"
    assert [row["event_id"] for row in staged if row["topic"] == ORDER_CHANGED] == [
        f"{change.order_no}:{change.version}" for change in told
    ]
