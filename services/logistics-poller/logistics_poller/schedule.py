"""When a parcel is asked for, and what its silence means. Pure: `now` is an argument.

A label is not a pickup. Until the pickup the tiers thin out and end after 72 hours; after it a slow tier waits for the
delivery. An aggregator locks a waybill for a day when it is asked more often than 48 times in 24 hours, so no plan may
ask within a 47th of a day of its last ask, whatever it is configured to.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum

# 48 asks with this gap between them span exactly 24 hours: the 49th comes half an hour too late to lock anything.
SHORTEST_GAP = timedelta(hours=24) / 47


class Finding(StrEnum):
    SILENT = "silent"  # label printed, nobody came
    EXHAUSTED = "exhausted"  # asked for as long as the plan allows


@dataclass(frozen=True, slots=True)
class Tier:
    until: timedelta  # age of the label at which the tier ends
    every: timedelta


@dataclass(frozen=True, slots=True)
class Plan:
    """How one courier's parcels are asked for."""

    tiers: tuple[Tier, ...] = (
        Tier(until=timedelta(hours=4), every=timedelta(minutes=30)),
        Tier(until=timedelta(hours=12), every=timedelta(hours=2)),
        Tier(until=timedelta(hours=72), every=timedelta(hours=6)),
    )
    silent_after: timedelta = timedelta(hours=24)
    moving_every: timedelta = timedelta(hours=12)
    moving_until: timedelta = timedelta(days=15)
    gap: timedelta = SHORTEST_GAP
    # Delays grow by 3-10 %, never shrink: parcels labelled in one print run spread out, and 30 minutes stay over the
    # gap.
    spread: tuple[float, float] = (0.03, 0.10)

    @property
    def waiting_until(self) -> timedelta:
        return self.tiers[-1].until

    def compressed(self, time_factor: float) -> "Plan":
        """The same plan for a world in which time runs `time_factor` times as fast."""
        return replace(
            self,
            tiers=tuple(Tier(tier.until / time_factor, tier.every / time_factor) for tier in self.tiers),
            silent_after=self.silent_after / time_factor,
            moving_every=self.moving_every / time_factor,
            moving_until=self.moving_until / time_factor,
            gap=self.gap / time_factor,
        )


@dataclass(frozen=True, slots=True)
class Watch:
    """What the schedule needs to know of a parcel."""

    waybill_no: str
    label_at: datetime
    moving_since: datetime | None = None  # the courier has it
    reported_silent: bool = False


def first_ask(plan: Plan, watch: Watch, now: datetime) -> datetime:
    """The first tier's delay after the label, or at once for a label that we learnt of late."""
    return max(now, watch.label_at + _delay(plan, watch, plan.tiers[0].every))


def next_ask(plan: Plan, watch: Watch, now: datetime, *, failures: int = 0) -> datetime | None:
    """When to ask again after an ask at `now`; None when the plan is at its end.

    `failures` counts the asks in a row that were answered by nobody: those are repeated sooner than the tier says,
    with a growing delay, because nothing has been learnt.
    """
    if now >= _end(plan, watch):
        return None
    every = _every(plan, watch, now)
    if failures:
        every = min(every, plan.gap * 2 ** min(failures - 1, 10))
    due = now + _delay(plan, watch, every)
    # The guard speaks on time, not at whichever ask comes next.
    for deadline in (_silence(plan, watch), _end(plan, watch)):
        if deadline is not None and now < deadline < due:
            due = deadline
    return max(due, now + plan.gap)


def finding(plan: Plan, watch: Watch, now: datetime) -> Finding | None:
    """What an ask at `now` that brought nothing new means."""
    if now >= _end(plan, watch):
        return Finding.EXHAUSTED
    silence = _silence(plan, watch)
    return Finding.SILENT if silence is not None and now >= silence else None


def _every(plan: Plan, watch: Watch, now: datetime) -> timedelta:
    if watch.moving_since is not None:
        return plan.moving_every
    age = now - watch.label_at
    return next((tier.every for tier in plan.tiers if age < tier.until), plan.tiers[-1].every)


def _delay(plan: Plan, watch: Watch, every: timedelta) -> timedelta:
    low, high = plan.spread
    # CRC-32: the same in every process and version of Python, unlike hash()
    share = zlib.crc32(watch.waybill_no.encode()) / 2**32
    return every * (1 + low + (high - low) * share)


def _silence(plan: Plan, watch: Watch) -> datetime | None:
    if watch.moving_since is not None or watch.reported_silent:
        return None
    return watch.label_at + plan.silent_after


def _end(plan: Plan, watch: Watch) -> datetime:
    if watch.moving_since is not None:
        return watch.moving_since + plan.moving_until
    return watch.label_at + plan.waiting_until


@dataclass(frozen=True, slots=True)
class Plans:
    """Every courier's plan."""

    default: Plan = Plan()
    own: Mapping[str, Plan] = field(default_factory=dict[str, Plan])

    def of(self, express_code: str) -> Plan:
        return self.own.get(express_code, self.default)
