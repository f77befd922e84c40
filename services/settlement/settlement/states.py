"""The life of a settlement at the bank. This table is the only place that says which word leads where.

An unknown outcome is PROCESSING, never FAILED: it is asked about until the bank knows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import assert_never

from .answers import Answer, NotFound, PayoutStatus, Told, Unknown


class Status(StrEnum):
    REQUESTED = "requested"  # accepted from order-core; the bank has not been called
    SENDING = "sending"  # committed before the call: from here on the money may move
    PROCESSING = "processing"  # the bank is at it, or nobody knows
    RETRYING = "retrying"  # refused, and wanted again: the bank has to repeat first that it refused
    SUCCESS = "success"  # every payout has arrived
    FAILED = "failed"  # the bank is done, and at least one payout was refused


class Heard(StrEnum):
    """A bank's answer in one word."""

    SUCCESS = "success"
    FAILED = "failed"
    PROCESSING = "processing"
    NOT_FOUND = "not_found"
    UNKNOWN = "unknown"


TRANSITIONS: Mapping[Status, Mapping[Heard, Status]] = {
    # Nothing can be heard before a call, and a call begins with SENDING (the claim moves it there).
    Status.REQUESTED: {},
    Status.SENDING: {
        Heard.SUCCESS: Status.SUCCESS,
        Heard.FAILED: Status.FAILED,
        Heard.PROCESSING: Status.PROCESSING,
        Heard.NOT_FOUND: Status.PROCESSING,
        Heard.UNKNOWN: Status.PROCESSING,
    },
    Status.PROCESSING: {
        Heard.SUCCESS: Status.SUCCESS,
        Heard.FAILED: Status.FAILED,
        Heard.PROCESSING: Status.PROCESSING,
        Heard.NOT_FOUND: Status.PROCESSING,
        Heard.UNKNOWN: Status.PROCESSING,
    },
    # A bank may have mended by itself what a person has mended too. Until it says again that it refused, a payout under
    # a new reference could be the second one.
    Status.RETRYING: {
        Heard.SUCCESS: Status.SUCCESS,  # a contradiction, and it has saved the second payment
        Heard.FAILED: Status.REQUESTED,  # as the next attempt
        Heard.PROCESSING: Status.RETRYING,
        Heard.NOT_FOUND: Status.RETRYING,
        Heard.UNKNOWN: Status.RETRYING,
    },
    # What is heard now is a late answer to a call that somebody else has finished meanwhile.
    Status.SUCCESS: {
        Heard.SUCCESS: Status.SUCCESS,
        Heard.FAILED: Status.SUCCESS,  # a contradiction: the money was said to have arrived
        Heard.PROCESSING: Status.SUCCESS,
        Heard.NOT_FOUND: Status.SUCCESS,
        Heard.UNKNOWN: Status.SUCCESS,
    },
    Status.FAILED: {
        Heard.SUCCESS: Status.SUCCESS,  # a contradiction as well, but the money did move: the books follow it
        Heard.FAILED: Status.FAILED,
        Heard.PROCESSING: Status.FAILED,
        Heard.NOT_FOUND: Status.FAILED,
        Heard.UNKNOWN: Status.FAILED,
    },
}

CONTRADICTIONS = frozenset(
    {
        (Status.SUCCESS, Heard.FAILED),
        (Status.FAILED, Heard.SUCCESS),
        (Status.RETRYING, Heard.SUCCESS),
        (Status.RETRYING, Heard.PROCESSING),
    }
)
FINAL = frozenset({Status.SUCCESS, Status.FAILED})


class UnheardOf(Exception):
    """A bank's answer met a settlement that has never been sent. Nothing has changed."""

    def __init__(self, status: Status, heard: Heard) -> None:
        super().__init__(f"{heard} cannot be heard of a settlement that is {status}")
        self.status = status
        self.heard = heard


class Step(StrEnum):
    """What the timer of an open settlement does next."""

    SEND = "send"
    ASK = "ask"


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a settlement is."""

    status: Status
    sent_at: datetime | None  # the first call of this attempt
    taken_at: datetime | None  # when the bank first said that it has the instruction


@dataclass(frozen=True, slots=True)
class Verdict:
    status: Status
    next_step: Step | None  # None: nothing is left to do
    anomaly: str | None = None  # a kind, when a person should look


def hear(answer: Answer) -> Heard:
    match answer:
        case Told(payouts=payouts):
            statuses = {payout.status for payout in payouts}
            if statuses == {PayoutStatus.SUCCESS}:
                return Heard.SUCCESS
            if statuses <= {PayoutStatus.SUCCESS, PayoutStatus.FAILED}:
                return Heard.FAILED
            return Heard.PROCESSING
        case NotFound():
            return Heard.NOT_FOUND
        case Unknown():
            return Heard.UNKNOWN
        case _:
            assert_never(answer)


def decide(standing: Standing, heard: Heard, *, now: datetime, resend_within: timedelta) -> Verdict:
    """What a bank's word means for a settlement. Raises UnheardOf.

    Sending again (under the same reference) needs the bank's word that it has never seen the instruction. It is not
    done once the bank had it, nor later than `resend_within`: a bank forgets its idempotency keys one day.
    """
    try:
        status = TRANSITIONS[standing.status][heard]
    except KeyError:
        raise UnheardOf(standing.status, heard) from None
    kind = "bank_contradiction" if (standing.status, heard) in CONTRADICTIONS else None
    if status in FINAL:
        return Verdict(status, None, kind)
    if status is Status.REQUESTED:
        return Verdict(status, Step.SEND)
    if heard is not Heard.NOT_FOUND:
        return Verdict(status, Step.ASK, kind)
    if standing.taken_at is not None:
        return Verdict(status, Step.ASK, "bank_forgot_instruction")
    if standing.sent_at is None or now - standing.sent_at > resend_within:
        return Verdict(status, Step.ASK, "settlement_never_arrived")
    return Verdict(status, Step.SEND)


def query_delay(asked: int, *, first: timedelta, longest: timedelta) -> timedelta:
    """How long to wait before asking again after having asked `asked` times: doubling, up to `longest`."""
    return min(first * 2 ** min(asked, 30), longest)  # 30 doublings of a second are 34 years: no overflow
