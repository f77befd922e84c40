"""What couriers say about a parcel, and what that changes. Pure.

A courier tells a parcel's whole way at every ask: scans may come in any order, late, twice, or contradict each other.
Only scans whose meaning is known move a parcel; everything else is kept as text.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal

from orderloop.events import ParcelStatus

Source = Literal["push", "poll", "aggregator", "direct"]

# How far along its way a status is; orders scans of the same second.
_RANK = {
    status: rank
    for rank, status in enumerate(
        (
            ParcelStatus.LABEL_PRINTED,
            ParcelStatus.SILENT,
            ParcelStatus.EXHAUSTED,
            ParcelStatus.PICKED_UP,
            ParcelStatus.IN_TRANSIT,
            ParcelStatus.DELIVERING,
            ParcelStatus.EXCEPTION,
            ParcelStatus.DELIVERED,
            ParcelStatus.RETURNED,
        )
    )
}
_STILL = {ParcelStatus.LABEL_PRINTED, ParcelStatus.SILENT, ParcelStatus.EXHAUSTED}
OVER = {ParcelStatus.DELIVERED, ParcelStatus.RETURNED}

# Couriers use a number again after some months: what lies further back is another parcel's way.
_EARLIER_LIFE = timedelta(days=7)
# A clock may be wrong; a scan from beyond tomorrow says nothing about today.
_FUTURE = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Scan:
    at: datetime
    status: ParcelStatus | None  # None: the code means nothing to us, or nothing that moves a parcel
    code: str  # the courier's own
    text: str
    place: str | None = None


@dataclass(frozen=True, slots=True)
class Track:
    """One answer. No scans = asked, nothing yet: not a fact about the parcel."""

    courier: str  # who answered: kuaidi100, zto …
    source: Source
    scans: tuple[Scan, ...]
    recognised_as: str | None = None  # the aggregator's code under which the number was found


@dataclass(frozen=True, slots=True)
class Parcel:
    order_no: str
    express_code: str  # as the label says; events and snapshots keep it even when another courier turns out to carry it
    waybill_no: str
    label_at: datetime
    status: ParcelStatus = ParcelStatus.LABEL_PRINTED
    status_at: datetime | None = None  # the scan's time; None before the first scan that counts
    picked_up_at: datetime | None = None
    reported_silent: bool = False
    phone_tail: str | None = None  # the receiver's last four digits; some couriers answer nobody without them
    recognised_as: str | None = None
    traceparent: str | None = None
    followed_since: datetime | None = None  # a person had it asked for anew: its plan begins again

    @property
    def waiting_since(self) -> datetime:
        return max(self.label_at, self.followed_since or self.label_at)

    @property
    def moving_since(self) -> datetime | None:
        """Since when the courier has it; some never scan the pickup itself."""
        if self.picked_up_at is not None:
            return max(self.picked_up_at, self.waiting_since)
        if self.status in _STILL or self.status_at is None:
            return None
        return max(self.status_at, self.waiting_since)


@dataclass(frozen=True, slots=True)
class Advance:
    after: Parcel
    pickup: Scan | None  # the courier's own pickup event, told for the first time
    changes: tuple[Scan, ...]  # scans that changed the status, oldest first, the pickup not among them


def advance(parcel: Parcel, track: Track, now: datetime) -> Advance:
    """What an answer changes. The same answer again, or an older one, changes nothing."""
    scans = _believable(parcel, track.scans, now)
    pickup = None
    if parcel.picked_up_at is None:
        pickup = next((scan for scan in scans if scan.status is ParcelStatus.PICKED_UP), None)
    status, status_at = parcel.status, parcel.status_at
    changes: list[Scan] = []
    for scan in scans:
        if scan.status is None or not _moves(status, status_at, scan.status, scan.at):
            continue
        if scan.status is not status and scan.status is not ParcelStatus.PICKED_UP:
            changes.append(scan)
        status, status_at = scan.status, scan.at
    after = replace(
        parcel,
        status=status,
        status_at=status_at,
        picked_up_at=parcel.picked_up_at or (pickup.at if pickup else None),
        recognised_as=(track.recognised_as if scans else None) or parcel.recognised_as,
    )
    return Advance(after, pickup, tuple(changes))


def _believable(parcel: Parcel, scans: Sequence[Scan], now: datetime) -> list[Scan]:
    """This parcel's scans, oldest first."""
    earliest, latest = parcel.label_at - _EARLIER_LIFE, now + _FUTURE
    return sorted(
        (scan for scan in scans if earliest <= scan.at <= latest),
        key=lambda scan: (scan.at, _RANK[scan.status] if scan.status else -1),
    )


def _moves(status: ParcelStatus, status_at: datetime | None, scanned: ParcelStatus, at: datetime) -> bool:
    """Whether a scan is newer than what is known. Backwards is possible: a van returns to its depot."""
    if scanned in _STILL or status is ParcelStatus.RETURNED:
        return False
    if status is ParcelStatus.DELIVERED and scanned is not ParcelStatus.RETURNED:
        return False  # a hub's scan uploaded late; only a return undoes a signature
    if status in _STILL or status_at is None:
        return True
    if scanned is ParcelStatus.PICKED_UP:
        return False  # collected again on its way, or told late
    return (at, _RANK[scanned]) > (status_at, _RANK[status])
