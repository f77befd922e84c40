"""The table of a settlement's life, without a bank and without a clock."""

from datetime import UTC, datetime, timedelta

import pytest

from settlement.answers import NotFound, PayoutStatus, PayoutTold, Told, Unknown
from settlement.states import (
    FINAL,
    TRANSITIONS,
    Heard,
    Standing,
    Status,
    Step,
    UnheardOf,
    Verdict,
    decide,
    hear,
    query_delay,
)

NOW = datetime(2026, 1, 22, 9, 0, tzinfo=UTC)
DAY = timedelta(hours=24)


def verdict(status: Status, heard: Heard, *, sent: timedelta = timedelta(), taken: bool = False) -> Verdict:
    standing = Standing(status, sent_at=NOW - sent, taken_at=NOW - sent if taken else None)
    return decide(standing, heard, now=NOW, resend_within=DAY)


def test_the_table_has_a_row_for_every_status_and_a_word_for_every_answer() -> None:
    assert TRANSITIONS.keys() == set(Status)
    assert all(row.keys() in (set(Heard), set()) for row in TRANSITIONS.values())


@pytest.mark.parametrize("heard", Heard)
def test_nothing_can_be_heard_before_it_was_sent(heard: Heard) -> None:
    with pytest.raises(UnheardOf):
        verdict(Status.REQUESTED, heard)


@pytest.mark.parametrize("status", [Status.SENDING, Status.PROCESSING])
@pytest.mark.parametrize("heard", [Heard.UNKNOWN, Heard.PROCESSING])
def test_what_is_unknown_is_asked_about_and_never_sent_again(status: Status, heard: Heard) -> None:
    assert verdict(status, heard) == Verdict(Status.PROCESSING, Step.ASK)


@pytest.mark.parametrize("status", [Status.SENDING, Status.PROCESSING])
def test_only_the_banks_word_that_it_never_saw_it_lets_it_be_sent_again(status: Status) -> None:
    assert verdict(status, Heard.NOT_FOUND) == Verdict(Status.PROCESSING, Step.SEND)


def test_what_the_bank_once_had_is_not_sent_again_when_it_is_forgotten() -> None:
    assert verdict(Status.PROCESSING, Heard.NOT_FOUND, taken=True) == Verdict(
        Status.PROCESSING, Step.ASK, "bank_forgot_instruction"
    )


def test_a_reference_older_than_the_banks_memory_is_not_sent_again() -> None:
    late = verdict(Status.PROCESSING, Heard.NOT_FOUND, sent=DAY + timedelta(seconds=1))

    assert late == Verdict(Status.PROCESSING, Step.ASK, "settlement_never_arrived")


@pytest.mark.parametrize("status", sorted(FINAL))
@pytest.mark.parametrize("heard", [Heard.UNKNOWN, Heard.PROCESSING, Heard.NOT_FOUND])
def test_a_late_answer_moves_nothing_that_is_final(status: Status, heard: Heard) -> None:
    assert verdict(status, heard) == Verdict(status, None)


def test_a_bank_that_contradicts_itself_is_shown_to_a_person_and_money_that_moved_is_booked() -> None:
    assert verdict(Status.SUCCESS, Heard.FAILED) == Verdict(Status.SUCCESS, None, "bank_contradiction")
    assert verdict(Status.FAILED, Heard.SUCCESS) == Verdict(Status.SUCCESS, None, "bank_contradiction")


def test_what_was_refused_and_is_wanted_again_needs_the_banks_word_that_it_still_is_refused() -> None:
    assert verdict(Status.RETRYING, Heard.FAILED, taken=True) == Verdict(Status.REQUESTED, Step.SEND)
    assert verdict(Status.RETRYING, Heard.UNKNOWN, taken=True) == Verdict(Status.RETRYING, Step.ASK)
    forgotten = verdict(Status.RETRYING, Heard.NOT_FOUND, taken=True)
    assert forgotten == Verdict(Status.RETRYING, Step.ASK, "bank_forgot_instruction")


def test_a_bank_that_takes_back_its_refusal_is_shown_to_a_person_and_not_asked_to_pay_again() -> None:
    assert verdict(Status.RETRYING, Heard.SUCCESS) == Verdict(Status.SUCCESS, None, "bank_contradiction")
    assert verdict(Status.RETRYING, Heard.PROCESSING) == Verdict(Status.RETRYING, Step.ASK, "bank_contradiction")


@pytest.mark.parametrize(
    ("statuses", "heard"),
    [
        ([PayoutStatus.SUCCESS, PayoutStatus.SUCCESS], Heard.SUCCESS),
        ([PayoutStatus.SUCCESS, PayoutStatus.FAILED], Heard.FAILED),
        ([PayoutStatus.FAILED, PayoutStatus.FAILED], Heard.FAILED),
        ([PayoutStatus.FAILED, PayoutStatus.PROCESSING], Heard.PROCESSING),
        ([PayoutStatus.SUCCESS, PayoutStatus.PROCESSING], Heard.PROCESSING),
    ],
)
def test_every_receiver_must_be_paid_before_it_is_a_success(statuses: list[PayoutStatus], heard: Heard) -> None:
    told = Told("0000", tuple(PayoutTold(f"r{n}", status, NOW) for n, status in enumerate(statuses)))

    assert hear(told) is heard


def test_no_answer_is_not_a_failure() -> None:
    assert hear(Unknown("timeout")) is Heard.UNKNOWN
    assert hear(NotFound()) is Heard.NOT_FOUND


def test_queries_become_rarer_up_to_a_limit() -> None:
    delays = [query_delay(n, first=timedelta(seconds=30), longest=timedelta(hours=1)) for n in (0, 1, 2, 7, 10_000)]

    assert [delay.total_seconds() for delay in delays] == [30, 60, 120, 3600, 3600]
