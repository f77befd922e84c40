"""What customer service sees of a parcel, kept in Redis for two hours so that a look-up never costs a courier's answer.

Redis is a convenience: without it, or after a flush, the database's row answers.
"""

from datetime import datetime
from typing import Literal

import structlog
from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from orderloop.errors import REDIS_AWAY
from orderloop.events import ParcelStatus

from . import metrics
from .store import Known
from .tracks import Parcel, Scan

log = structlog.get_logger()

_SECONDS = 2 * 3600


class ShownScan(BaseModel):
    model_config = ConfigDict(frozen=True)

    at: AwareDatetime
    status: ParcelStatus | None
    place: str | None
    text: str


class Snapshot(BaseModel):
    """A parcel as the last answered ask left it. `nothing_yet` = the courier was asked and knew nothing: no fact."""

    model_config = ConfigDict(frozen=True)

    express_code: str
    waybill_no: str
    status: ParcelStatus
    label_at: AwareDatetime
    picked_up_at: AwareDatetime | None
    answer: Literal["track", "nothing_yet", "never_answered"]
    answered_at: AwareDatetime | None
    source: str | None  # who answered: kuaidi100, zto …
    scans: tuple[ShownScan, ...]  # newest first


def snapshot(parcel: Parcel, scans: tuple[Scan, ...], *, answered_at: datetime | None, source: str | None) -> Snapshot:
    return Snapshot(
        express_code=parcel.express_code,
        waybill_no=parcel.waybill_no,
        status=parcel.status,
        label_at=parcel.label_at,
        picked_up_at=parcel.picked_up_at,
        answer="never_answered" if answered_at is None else "track" if scans else "nothing_yet",
        answered_at=answered_at,
        source=source,
        scans=tuple(
            ShownScan(at=scan.at, status=scan.status, place=scan.place, text=scan.text)
            for scan in sorted(scans, key=lambda scan: scan.at, reverse=True)
        ),
    )


def from_database(known: Known) -> Snapshot:
    return snapshot(known.parcel, known.scans, answered_at=known.answered_at, source=known.answered_by)


def connect(url: str) -> Redis:
    """Fails at once and within a second: a poll or a look-up must not wait for what it can do without."""
    return Redis.from_url(url, socket_timeout=1, socket_connect_timeout=1, retry=Retry(NoBackoff(), 0))


class Snapshots:
    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def keep(self, shown: Snapshot) -> None:
        try:
            await self._redis.set(_key(shown.express_code, shown.waybill_no), shown.model_dump_json(), ex=_SECONDS)
        except REDIS_AWAY as error:
            metrics.SNAPSHOT_ERRORS.inc()
            log.warning("snapshot not kept", waybill_no=shown.waybill_no, error=repr(error))

    async def find(self, express_code: str, waybill_no: str) -> Snapshot | None:
        """None when there is none, or Redis is away, or what it holds is not ours."""
        try:
            kept = await self._redis.get(_key(express_code, waybill_no))
            return None if kept is None else Snapshot.model_validate_json(kept)
        except (*REDIS_AWAY, ValidationError) as error:
            metrics.SNAPSHOT_ERRORS.inc()
            log.warning("snapshot not found", waybill_no=waybill_no, error=type(error).__name__)
            return None


def _key(express_code: str, waybill_no: str) -> str:
    return f"logistics:{express_code}:{waybill_no}"
