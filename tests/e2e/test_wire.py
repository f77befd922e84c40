"""What the four services really put on the wire is what their contract says: key, headers and body of every record."""

import asyncpg

from orderloop.topics import (
    ALL,
    ORDER_CHANGED,
    PARCEL_TRACKED,
    PARTITIONS,
    PAYMENT_NOTIFIED,
    PICKUP_DETECTED,
    SETTLEMENT_REQUESTED,
    SETTLEMENT_RESULT,
    SHIPMENT_REQUESTED,
    WAYBILL_CREATED,
)
from orderloop_lab.system import Lab
from tests.support.clean_world import read_topics
from tests.support.contract import Record, faults

OF_EVERY_ORDER = {
    ORDER_CHANGED,
    PARCEL_TRACKED,
    PAYMENT_NOTIFIED,
    PICKUP_DETECTED,
    SETTLEMENT_REQUESTED,
    SETTLEMENT_RESULT,
    SHIPMENT_REQUESTED,
    WAYBILL_CREATED,
}


async def test_every_record_of_every_service_keeps_the_contract(
    lab: Lab, order: tuple[str, list[asyncpg.Record]]
) -> None:
    around = lab.surroundings
    told = await read_topics(around.backing.kafka_bootstrap, around.prefix, PARTITIONS)
    records = [one for one in told if one.topic in ALL]

    assert {one.topic for one in records if one.key == order[0].encode()} >= OF_EVERY_ORDER
    wrong = {
        (one.topic, fault) for one in records for fault in faults(Record(one.topic, one.key, one.headers, one.value))
    }
    assert wrong == set()
