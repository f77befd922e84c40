"""The table: total, and without a way around the bank or the payment."""

from itertools import product

import pytest

from order_core.states import TRANSITIONS, Event, IllegalTransition, Move, MoveBack, Record, Status, Wait, verdict


def test_every_status_has_a_row() -> None:
    assert set(TRANSITIONS) == set(Status)


@pytest.mark.parametrize(("status", "event"), list(product(Status, Event)))
def test_every_pair_has_a_verdict_or_is_refused_by_name(status: Status, event: Event) -> None:
    if event in TRANSITIONS[status]:
        assert isinstance(verdict(status, event), (Move, Record, Wait, MoveBack))
        return
    with pytest.raises(IllegalTransition) as refusal:
        verdict(status, event)
    assert (refusal.value.status, refusal.value.event) == (status, event)


def moves() -> list[tuple[Status, Event, Status]]:
    return [
        (status, event, answer.to)
        for status, row in TRANSITIONS.items()
        for event, answer in row.items()
        if isinstance(answer, Move)
    ]


def test_only_the_banks_success_completes_an_order() -> None:
    assert {(s, e) for s, e, to in moves() if to is Status.COMPLETED} == {
        (Status.PENDING_SETTLEMENT, Event.SETTLEMENT_SUCCEEDED)
    }


def test_only_a_payment_or_a_revival_makes_an_order_paid() -> None:
    assert {e for _, e, to in moves() if to is Status.PAID} == {Event.PAYMENT_SUCCEEDED, Event.REVIVED}


def test_a_repeated_payment_never_moves_an_order_that_is_further_on() -> None:
    assert [status for status in Status if Event.PAYMENT_SUCCEEDED in TRANSITIONS[status]] == [Status.PENDING]


def test_no_scan_ever_moves_an_order_back() -> None:
    forward = list(Status)
    scans = {Event.WAYBILL_CREATED, Event.PARCEL_TRACKED, Event.ALL_PARCELS_DELIVERED}
    assert all(forward.index(to) > forward.index(s) for s, e, to in moves() if e in scans)


def test_every_order_can_reach_an_end() -> None:
    ends = {Status.COMPLETED, Status.CLOSED, Status.REFUNDED}
    reachable = {status: {to for s, _, to in moves() if s is status} for status in Status}
    for start in Status:
        seen, frontier = {start}, {start}
        while frontier:
            frontier = {to for status in frontier for to in reachable[status]} - seen
            seen |= frontier
        assert seen & ends, f"{start} leads nowhere"
