"""One attempt to tell us something: what came, and what we made of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from opentelemetry.trace import SpanContext

from .channels import Notice, Reason


class Verdict(StrEnum):
    ACCEPTED = "accepted"  # says something new
    DUPLICATE = "duplicate"  # says what has been said before
    NOTED = "noted"  # authentic, but nothing that an order of ours would need to hear
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Attempt:
    """A row of the callback log in the making. Exactly one of `notice` and `refusal` is there."""

    channel: str
    status: int  # of the answer that follows once this is stored
    source_address: str | None
    headers: Mapping[str, str]
    body: bytes | None  # None: too large, so never read
    notice: Notice | None = None
    refusal: Reason | None = None
    detail: str = ""
    trace_id: str | None = None
    traceparent: str | None = None  # of the request
    span: SpanContext | None = None
    traceparents: tuple[str | None, ...] = ()  # one for each fact of the notice

    @property
    def order_no(self) -> str:
        """The order it speaks of, the first of several, or nothing."""
        return self.notice.order_nos[0] if self.notice and self.notice.order_nos else ""
