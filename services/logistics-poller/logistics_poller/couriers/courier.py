"""What every courier, and the aggregator, is to the poller."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from logistics_poller.tracks import Track
from orderloop.errors import Transient


class Trouble(StrEnum):
    UNREACHABLE = "unreachable"  # no connection, a time-out, HTTP 5xx
    BUSY = "busy"  # it says so itself, or HTTP 429
    LOCKED = "locked"  # this waybill was asked too often
    UNREADABLE = "unreadable"  # an answer that is none: a web page, another schema
    REFUSED = "refused"  # it does not like the question
    MISCONFIGURED = "misconfigured"  # our key, signature or balance


class CourierTrouble(Transient):
    """Nobody answered. What the parcel does is unknown, which is never a fact about it."""

    def __init__(self, courier: str, trouble: Trouble, detail: str) -> None:
        super().__init__(f"{courier} {trouble}: {detail}")
        self.courier = courier
        self.trouble = trouble


@dataclass(frozen=True, slots=True)
class Inquiry:
    express_code: str  # as the label says
    waybill_no: str
    phone_tail: str | None = None
    recognised_as: str | None = None  # the aggregator's code that worked before


class Courier(Protocol):
    name: str

    async def track(self, inquiry: Inquiry) -> Track:
        """The parcel's way so far; no scans when the courier knows nothing yet. Raises CourierTrouble."""
        ...
