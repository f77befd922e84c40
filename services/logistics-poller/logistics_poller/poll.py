"""Asking couriers about the parcels that are due, and recording what they said.

The ask happens outside any transaction. Its outcome (parcel, scans, events, the next ask) is one transaction: a crash
before it asks again after the lease, a crash after it changes nothing, because an answer told twice changes nothing.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import asyncpg
import structlog

from orderloop import outbox, tracing
from orderloop.clock import Clock
from orderloop.events import AnomalyRaised, Event, ParcelStatus, ParcelTracked, PickupDetected
from orderloop.failpoints import failpoint

from . import metrics, store
from .couriers.courier import CourierTrouble, Inquiry
from .couriers.inquire import Couriers
from .schedule import Finding, Plan, Plans, Watch, finding, next_ask
from .snapshots import Snapshots, snapshot
from .store import DueWaybill
from .tracks import Advance, Parcel, Scan, Track, advance

log = structlog.get_logger()

# The aggregator and the courier itself may take 5 s each, recognition another 5.
_SHORTEST_LEASE = timedelta(seconds=20)


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What one answer made of one parcel."""

    after: Parcel
    found: Finding | None
    events: tuple[outbox.Staged, ...]


class Poller:
    def __init__(
        self,
        pool: asyncpg.Pool,
        couriers: Couriers,
        snapshots: Snapshots,
        *,
        clock: Clock,
        plans: Plans,
        at_once: int = 8,
    ) -> None:
        self._pool = pool
        self._couriers = couriers
        self._snapshots = snapshots
        self._clock = clock
        self._plans = plans
        self._at_once = at_once

    async def run_due(self) -> int:
        """Ask for everything that is due; returns how many waybills that were."""
        polled = 0
        while due := await self._claim():
            await asyncio.gather(*(self._poll_safely(waybill) for waybill in due))
            polled += len(due)
        return polled

    async def _claim(self) -> list[DueWaybill]:
        now = self._clock.now()
        lease = max(self._plans.default.gap, _SHORTEST_LEASE)
        with tracing.quiet():
            async with self._pool.acquire() as conn, conn.transaction():
                due = await store.claim_waybills(conn, now=now, lease_until=now + lease, most=self._at_once)
        for waybill in due:
            metrics.POLL_LAG.observe((now - waybill.was_due_at).total_seconds())
        return due

    async def _poll_safely(self, due: DueWaybill) -> None:
        """One bad parcel costs itself a lease and the others nothing."""
        try:
            first = due.parcels[0]
            with tracing.span(
                "poll", order_no=first.order_no, traceparent=first.traceparent, waybill_no=due.waybill_no
            ):
                await self._poll(due)
        except Exception as error:
            metrics.POLL_FAILURES.inc()
            log.error("poll failed, will be repeated", waybill_no=due.waybill_no, error=repr(error))

    async def _poll(self, due: DueWaybill) -> None:
        track: Track | None = None
        try:
            track = await self._couriers.track(_inquiry(due.parcels))
        except CourierTrouble as trouble:
            log.warning("nobody answered", waybill_no=due.waybill_no, trouble=str(trouble))
        failpoint("logistics-poller.after_ask")
        now = self._clock.now()
        recorded = await self._record(due, track, now)
        if track is not None and recorded:
            # Orders that share a waybill share its way: the first tells it.
            await self._snapshots.keep(snapshot(recorded[0], track.scans, answered_at=now, source=track.courier))

    async def _record(self, due: DueWaybill, track: Track | None, now: datetime) -> list[Parcel]:
        plan = self._plans.of(due.express_code)
        failures = 0 if track is not None else due.failures + 1
        asks_again: list[datetime] = []
        recorded: list[Parcel] = []
        async with self._pool.acquire() as conn, conn.transaction():
            for parcel in await store.lock_parcels(conn, due.express_code, due.waybill_no):
                outcome = judge(parcel, track, plan, now)
                over = store.is_over(outcome.after)
                answered_by = track.courier if track is not None else None
                await store.record_parcel(conn, outcome.after, now=now, answered_by=answered_by, finished=over)
                if track is not None and track.scans:
                    await store.record_scans(conn, outcome.after, track, now=now)
                await outbox.stage(conn, outcome.events)
                recorded.append(outcome.after)
                again = next_ask(plan, _watch(outcome.after), now, failures=failures)
                if not over and again is not None:
                    asks_again.append(again)
            if asks_again:
                await store.postpone_waybill(conn, due, due_at=min(asks_again), failures=failures)
            else:
                await store.stop_following(conn, due.express_code, due.waybill_no)
            failpoint("logistics-poller.before_poll_commit")
        return recorded


def judge(parcel: Parcel, track: Track | None, plan: Plan, now: datetime) -> _Outcome:
    """What an answer, or nobody's answering (None), makes of a parcel, and what the world is told of it."""
    said = advance(parcel, track, now) if track is not None else Advance(parcel, None, ())
    events: list[outbox.Staged] = []
    if said.pickup is not None and track is not None:
        metrics.PICKUPS.labels(track.source).inc()
        events.append(_pickup(said.after, said.pickup, track))
    events += [_tracked(said.after, scan.status, scan) for scan in said.changes if scan.status]
    if said.after.status is ParcelStatus.RETURNED and said.changes:
        events.append(_anomaly(said.after, "parcel_returned", now))
    after, found = said.after, None
    if not store.is_over(after):
        found = finding(plan, _watch(after), now)
        # Silence is the courier's, not ours: while nobody answers, nothing is known about the parcel.
        if found is Finding.EXHAUSTED or (found is Finding.SILENT and track is not None):
            after, told = _found(after, found, now, answered=track is not None)
            events += told
    return _Outcome(after, found, tuple(events))


def _found(parcel: Parcel, found: Finding, now: datetime, *, answered: bool) -> tuple[Parcel, list[outbox.Staged]]:
    metrics.FINDINGS.labels(found.value).inc()
    status = ParcelStatus(found.value)
    after = replace(parcel, status=status, reported_silent=parcel.reported_silent or found is Finding.SILENT)
    tracked = ParcelTracked(
        order_no=parcel.order_no,
        express_code=parcel.express_code,
        waybill_no=parcel.waybill_no,
        status=status,
        at=now,
    )
    return after, [
        _staged(after, tracked, _fact(after, found.value), now),
        _anomaly(after, f"parcel_{found.value}", now, last_ask_answered=answered),
    ]


def _pickup(parcel: Parcel, scan: Scan, track: Track) -> outbox.Staged:
    event = PickupDetected(
        order_no=parcel.order_no,
        express_code=parcel.express_code,
        waybill_no=parcel.waybill_no,
        picked_up_at=scan.at,
        place=scan.place,
        source=track.source,
    )
    return _staged(parcel, event, "picked_up", scan.at)


def _tracked(parcel: Parcel, status: ParcelStatus, scan: Scan) -> outbox.Staged:
    event = ParcelTracked(
        order_no=parcel.order_no,
        express_code=parcel.express_code,
        waybill_no=parcel.waybill_no,
        status=status,
        at=scan.at,
        place=scan.place,
        text=scan.text,
    )
    return _staged(parcel, event, f"{status}:{scan.at.isoformat()}", scan.at)


def _anomaly(parcel: Parcel, kind: str, now: datetime, **evidence: object) -> outbox.Staged:
    event = AnomalyRaised(
        order_no=parcel.order_no,
        kind=kind,
        evidence={
            "express_code": parcel.express_code,
            "waybill_no": parcel.waybill_no,
            "label_at": parcel.label_at.isoformat(),
            **evidence,
        },
        raised_at=now,
    )
    return _staged(parcel, event, _fact(parcel, kind), now)


def _fact(parcel: Parcel, name: str) -> str:
    """What is found once while a parcel is followed; when it is followed anew, that is another time."""
    return f"{name}:{parcel.followed_since.isoformat()}" if parcel.followed_since else name


def _staged(parcel: Parcel, event: Event, fact: str, at: datetime) -> outbox.Staged:
    trace = tracing.current_traceparent() or parcel.traceparent
    return outbox.Staged(event, f"{parcel.express_code}:{parcel.waybill_no}:{fact}", at, trace)


def _inquiry(parcels: Sequence[Parcel]) -> Inquiry:
    """One question for all orders that share the waybill."""
    first = parcels[0]
    return Inquiry(
        express_code=first.express_code,
        waybill_no=first.waybill_no,
        phone_tail=next((parcel.phone_tail for parcel in parcels if parcel.phone_tail), None),
        recognised_as=next((parcel.recognised_as for parcel in parcels if parcel.recognised_as), None),
    )


def _watch(parcel: Parcel) -> Watch:
    return Watch(parcel.waybill_no, parcel.waiting_since, parcel.moving_since, parcel.reported_silent)
