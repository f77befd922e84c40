"""From a requested shipment to printed labels: the foreign call, repeated with one key until it is answered.

The call happens outside any transaction; its outcome, the parcels and the events are one transaction. A crash anywhere
repeats the call, and the warehouse answers a repeated key with the same shipment.
"""

import asyncio
import json
from datetime import datetime, timedelta

import asyncpg
import structlog

from orderloop import outbox, tracing
from orderloop.clock import Clock
from orderloop.events import AnomalyRaised, WaybillCreated
from orderloop.failpoints import failpoint

from . import metrics, store
from .schedule import Plans, Watch, first_ask
from .store import DueShipment, Label
from .wms import Accepted, Printed, Warehouse, WarehouseRefuses, WarehouseSilent

log = structlog.get_logger()

_LEASE = timedelta(seconds=30)  # longer than the call may take (10 s) and its transaction may wait
_FIRST_RETRY = timedelta(seconds=2)
_LAST_RETRY = timedelta(minutes=5)
_WORRYING = 8  # attempts: about ten minutes without an answer


class Labelling:
    def __init__(
        self,
        pool: asyncpg.Pool,
        warehouse: Warehouse,
        *,
        clock: Clock,
        plans: Plans,
        time_factor: float = 1,
        at_once: int = 8,
    ) -> None:
        self._pool = pool
        self._warehouse = warehouse
        self._clock = clock
        self._plans = plans
        self._time_factor = time_factor
        self._at_once = at_once

    async def run_due(self) -> int:
        """Have everything made that is due; returns how many calls that took."""
        calls = 0
        while due := await self._claim():
            await asyncio.gather(*(self._make(shipment) for shipment in due))
            calls += len(due)
        return calls

    async def _claim(self) -> list[DueShipment]:
        now = self._clock.now()
        with tracing.quiet():
            async with self._pool.acquire() as conn, conn.transaction():
                return await store.claim_shipments(conn, now=now, lease_until=now + _LEASE, most=self._at_once)

    async def _make(self, shipment: DueShipment) -> None:
        """One call and its outcome. Whatever fails here costs this shipment its lease and the others nothing."""
        try:
            with tracing.span(
                "ship",
                order_no=shipment.order_no,
                traceparent=shipment.traceparent,
                shipment_id=shipment.shipment_id,
                attempt=shipment.attempts,
            ):
                await self._call(shipment)
        except Exception as error:
            metrics.OUTBOUND.labels("not_recorded").inc()
            log.error("shipment not recorded, will be repeated", shipment_id=shipment.shipment_id, error=repr(error))

    async def _call(self, shipment: DueShipment) -> None:
        failpoint("logistics-poller.before_outbound")
        try:
            accepted = await self._warehouse.outbound(shipment)
        except WarehouseSilent as silence:
            metrics.OUTBOUND.labels("unknown").inc()
            await self._postpone(shipment, str(silence))
        except WarehouseRefuses as refusal:
            metrics.OUTBOUND.labels("refused").inc()
            await self._refuse(shipment, str(refusal))
        else:
            failpoint("logistics-poller.after_outbound")
            metrics.OUTBOUND.labels("accepted").inc()
            await self._accept(shipment, accepted)

    async def _accept(self, shipment: DueShipment, accepted: Accepted) -> None:
        trace = tracing.current_traceparent() or shipment.traceparent
        async with self._pool.acquire() as conn, conn.transaction():
            if not await store.finish_shipment(
                conn,
                shipment,
                status="accepted",
                shipment_no=accepted.shipment_no,
                finished_at=self._clock.now(),
            ):
                return  # another worker's call, with the same key and the same answer, was recorded first
            await store.follow(conn, [self._label(shipment, accepted, parcel, trace) for parcel in accepted.parcels])
            await outbox.stage(
                conn, [_waybill_created(shipment, accepted, parcel, trace) for parcel in accepted.parcels]
            )
            failpoint("logistics-poller.before_shipment_commit")

    def _label(self, shipment: DueShipment, accepted: Accepted, parcel: Printed, trace: str | None) -> Label:
        plan = self._plans.of(parcel.express_code)
        return Label(
            order_no=shipment.order_no,
            express_code=parcel.express_code,
            waybill_no=parcel.waybill_no,
            shipment_id=shipment.shipment_id,
            warehouse=shipment.warehouse,
            label_at=accepted.accepted_at,
            phone_tail=phone_tail(shipment.request),
            traceparent=trace,
            due_at=first_ask(plan, Watch(parcel.waybill_no, accepted.accepted_at), self._clock.now()),
        )

    async def _refuse(self, shipment: DueShipment, reason: str) -> None:
        now = self._clock.now()
        async with self._pool.acquire() as conn, conn.transaction():
            if await store.finish_shipment(conn, shipment, status="refused", refusal=reason, finished_at=now):
                await outbox.stage(conn, [_anomaly(shipment, "shipment_refused", reason, now)])

    async def _postpone(self, shipment: DueShipment, reason: str) -> None:
        now = self._clock.now()
        wait = min(_FIRST_RETRY * 2 ** min(shipment.attempts - 1, 10), _LAST_RETRY) / self._time_factor
        log.warning("warehouse silent, will repeat", shipment_id=shipment.shipment_id, because=reason)
        async with self._pool.acquire() as conn, conn.transaction():
            await store.postpone_shipment(conn, shipment.shipment_id, due_at=now + wait)
            if shipment.attempts == _WORRYING:
                await outbox.stage(conn, [_anomaly(shipment, "shipment_unanswered", reason, now)])


def phone_tail(request: str) -> str | None:
    """The last four digits of the receiver's telephone: enough for the couriers that want it, and no more."""
    phone = str(json.loads(request).get("receiver", {}).get("phone", ""))
    tail = phone[-4:]
    return tail if len(tail) == 4 and tail.isascii() and tail.isdigit() else None


def _waybill_created(shipment: DueShipment, accepted: Accepted, parcel: Printed, trace: str | None) -> outbox.Staged:
    event = WaybillCreated(
        order_no=shipment.order_no,
        shipment_id=shipment.shipment_id,
        express_code=parcel.express_code,
        waybill_no=parcel.waybill_no,
        warehouse=shipment.warehouse,
        parcel_no=parcel.parcel_no,
        parcel_count=parcel.parcel_count,
        created_at=accepted.accepted_at,
    )
    return outbox.Staged(event, f"{shipment.shipment_id}:waybill:{parcel.waybill_no}", accepted.accepted_at, trace)


def _anomaly(shipment: DueShipment, kind: str, reason: str, now: datetime) -> outbox.Staged:
    event = AnomalyRaised(
        order_no=shipment.order_no,
        kind=kind,
        evidence={
            "shipment_id": shipment.shipment_id,
            "warehouse": shipment.warehouse,
            "reason": reason,
            "attempts": shipment.attempts,
        },
        raised_at=now,
    )
    trace = tracing.current_traceparent() or shipment.traceparent
    return outbox.Staged(event, f"{shipment.shipment_id}:{kind}", now, trace)
