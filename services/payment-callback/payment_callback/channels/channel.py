"""What every payment channel has in common."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from orderloop.errors import Permanent
from orderloop.events import PaymentNotified, RefundNotified


class Reason(StrEnum):
    """Why a request was not taken for a notice. For the log; the sender learns only the status."""

    METHOD = "method"
    MEDIA_TYPE = "media_type"
    TOO_LARGE = "too_large"
    HEADER_MISSING = "header_missing"
    SIGNATURE_TYPE = "signature_type"
    DOCTOR = "doctor"  # our own doctor's probe: refused like any other, and answered with what reached us
    PROBE = "probe"  # the channel tests whether we verify at all; refusing it is the right answer
    CLOCK = "clock"
    UNKNOWN_SERIAL = "unknown_serial"
    CERTIFICATE_EXPIRED = "certificate_expired"
    CERTIFICATE_TOO_EARLY = "certificate_too_early"  # before its own beginning: is our clock wrong?
    BAD_SIGNATURE = "bad_signature"
    MALFORMED = "malformed"
    UNDECRYPTABLE = "undecryptable"
    WRONG_MERCHANT = "wrong_merchant"
    NOT_UNDERSTOOD = "not_understood"  # authentic, but of a shape or with a value that this version does not know


class Refused(Permanent):
    """The request is no notice for us. `detail` never holds a value from the request's body."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


class Shape(StrEnum):
    """What a notice is about, told by its decrypted content and never by its event_type."""

    TRANSACTION = "transaction"
    COMBINED = "combined"
    REFUND = "refund"
    PROFIT_SHARING = "profit_sharing"
    ECHO = "echo"  # the channel's self-test
    CLOSED = "closed"  # an unpaid order that the channel has closed


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing that a notice says about one order of ours."""

    event_id: str  # names the fact, so that a repeat is a repeat however it arrives
    event: PaymentNotified | RefundNotified
    body: bytes  # the event as it travels
    occurred_at: datetime | None  # None: the channel named no time


def paid(event: PaymentNotified) -> Fact:
    """That an order was paid, under the name that it has for every channel and however we learn of it.

    Raises MalformedEvent.
    """
    return Fact(f"{event.channel}:{event.transaction_id}:paid", event, event.encode(), event.paid_at)


def refunded(event: RefundNotified) -> Fact:
    """How a refund ended. An abnormal one may succeed later: another fact about the same refund, so another id.

    Raises MalformedEvent.
    """
    ended = "refunded" if event.refund_status == "SUCCESS" else event.refund_status.lower()
    return Fact(f"{event.channel}:{event.refund_id}:{ended}", event, event.encode(), event.finished_at)


@dataclass(frozen=True, slots=True)
class Question:
    """Something that a notice only hints at: the refund's own amount has to be asked for."""

    channel: str
    order_no: str
    transaction_id: str
    out_refund_no: str


@dataclass(frozen=True, slots=True)
class Notice:
    """An authentic, understood notification."""

    shape: Shape
    order_nos: tuple[str, ...]  # as the channel knows them (out_trade_no): not necessarily ours
    transaction_ids: tuple[str, ...]
    facts: tuple[Fact, ...] = ()  # empty: nothing that an order would need to hear
    remark: str = ""  # why there are fewer facts than orders
    questions: tuple[Question, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes = b""
    media_type: bytes = b"application/json"


class Channel(Protocol):
    """A payment channel's notification protocol. Both steps raise Refused."""

    @property
    def name(self) -> str: ...

    @property
    def media_type(self) -> str:
        """The only content type that the channel sends."""
        ...

    @property
    def logged_headers(self) -> frozenset[str]:
        """Lower-case names of the headers that the callback log keeps."""
        ...

    def verify(self, headers: Mapping[str, str], body: bytes, now: datetime) -> None:
        """Whether the raw bytes are the channel's own, and of now. Header names are lower-case."""
        ...

    def translate(self, body: bytes) -> Notice:
        """What a verified body says."""
        ...

    def stored(self) -> Answer:
        """Acknowledges: the channel will not tell us again."""
        ...

    def failed(self, status: int) -> Answer:
        """Says nothing, except that the channel shall try again."""
        ...
