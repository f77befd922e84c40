"""What comes in: shipments to be made, labels that somebody else printed, parcels to be asked for once more."""

from collections.abc import Sequence
from datetime import datetime

import asyncpg
import orjson

from orderloop import inbox, outbox, postgres, topics
from orderloop.clock import Clock
from orderloop.consume import Handler, Received
from orderloop.events import AnomalyRaised, ShipmentRequested, TrackingRequested, WaybillCreated

from . import store
from .schedule import Plans, Watch, first_ask
from .store import Label, Shipment

GROUP = "logistics-poller"
TOPICS = topics.GROUPS[GROUP]


def handler(pool: asyncpg.Pool, *, plans: Plans, clock: Clock) -> Handler:
    async def handle(received: Sequence[Received]) -> None:
        now = clock.now()
        async with pool.acquire() as conn, conn.transaction():
            claimed = await inbox.claim(conn, {(one.order_no, one.event_id) for one in received})
            fresh = [one for one in received if (one.order_no, one.event_id) in claimed]
            await _request(conn, fresh, now)
            await _follow(conn, fresh, plans=plans, now=now)
            await _follow_again(conn, fresh, plans=plans, now=now)

    return handle


async def _request(conn: postgres.Connection, received: Sequence[Received], now: datetime) -> None:
    """Take shipments in, due at once; a second one for an order is not made but shown to a person."""
    asked = [
        Shipment(
            order_no=event.order_no,
            shipment_id=event.shipment_id,
            warehouse=event.decision.warehouse,
            express_code=event.decision.express_code,
            request=orjson.dumps({"items": event.items, "receiver": event.receiver}).decode(),
            traceparent=one.traceparent,
            requested_at=now,
        )
        for one in received
        if isinstance(event := one.event, ShipmentRequested)
    ]
    if not asked:
        return
    await store.request_shipments(conn, asked)
    known = await store.known_shipments(conn, asked)
    second = [shipment for shipment in asked if shipment.shipment_id not in known]
    await outbox.stage(conn, [_second_shipment(shipment, now) for shipment in second])


def _second_shipment(shipment: Shipment, now: datetime) -> outbox.Staged:
    anomaly = AnomalyRaised(
        order_no=shipment.order_no,
        kind="second_shipment",
        evidence={"shipment_id": shipment.shipment_id, "warehouse": shipment.warehouse},
        raised_at=now,
    )
    return outbox.Staged(anomaly, f"{shipment.shipment_id}:second_shipment", now, shipment.traceparent)


async def _follow(
    conn: postgres.Connection,
    received: Sequence[Received],
    *,
    plans: Plans,
    now: datetime,
) -> None:
    """Follow parcels; those whose label is our own are followed already."""
    labels = [
        Label(
            order_no=event.order_no,
            express_code=event.express_code,
            waybill_no=event.waybill_no,
            shipment_id=event.shipment_id,
            warehouse=event.warehouse,
            label_at=event.created_at,
            phone_tail=None,
            traceparent=one.traceparent,
            due_at=first_ask(plans.of(event.express_code), Watch(event.waybill_no, event.created_at), now),
        )
        for one in received
        if isinstance(event := one.event, WaybillCreated)
    ]
    if labels:
        await store.follow(conn, labels)


async def _follow_again(
    conn: postgres.Connection, received: Sequence[Received], *, plans: Plans, now: datetime
) -> None:
    """Ask for parcels anew that were given up, or are silent; what has arrived or come back stays as it is."""
    for one in received:
        if isinstance(event := one.event, TrackingRequested):
            # the last ask may have been a moment ago
            due_at = now + plans.of(event.express_code).gap
            await store.follow_again(conn, event, now=now, due_at=due_at)
