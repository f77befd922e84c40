"""What a courier's answer changes."""

import itertools
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logistics_poller.tracks import Parcel, Scan, Track, advance
from orderloop.events import ParcelStatus

LABEL = datetime(2026, 1, 22, 9, 0, tzinfo=UTC)
NOW = LABEL + timedelta(days=3)
S = ParcelStatus

PARCEL = Parcel("260122090000AAAAAAAAAAAA", "zto", "780000000001", LABEL)


def scan(hours: float, status: ParcelStatus | None) -> Scan:
    return Scan(LABEL + timedelta(hours=hours), status, str(status), f"{status} at {hours}")


def track(*scans: Scan) -> Track:
    return Track("kuaidi100", "aggregator", scans, recognised_as="zhongtong")


USUAL = (
    scan(0.2, S.LABEL_PRINTED),
    scan(3, S.PICKED_UP),
    scan(5, S.IN_TRANSIT),
    scan(14, S.IN_TRANSIT),
    scan(20, S.DELIVERING),
    scan(24, S.DELIVERED),
)


def test_a_whole_way_is_a_pickup_and_each_change_of_status_once() -> None:
    said = advance(PARCEL, track(*USUAL), NOW)
    assert said.pickup == USUAL[1]
    assert [change.status for change in said.changes] == [S.IN_TRANSIT, S.DELIVERING, S.DELIVERED]
    assert said.after.status is S.DELIVERED
    assert said.after.picked_up_at == USUAL[1].at


def test_the_same_answer_again_changes_nothing() -> None:
    once = advance(PARCEL, track(*USUAL), NOW).after
    again = advance(once, track(*USUAL), NOW)
    assert (again.after, again.pickup, again.changes) == (once, None, ())


@given(order=st.permutations(USUAL))
def test_the_order_of_the_scans_in_an_answer_makes_no_difference(order: list[Scan]) -> None:
    assert advance(PARCEL, track(*order), NOW) == advance(PARCEL, track(*USUAL), NOW)


@pytest.mark.parametrize("cut", range(len(USUAL)))
def test_where_a_way_is_cut_into_answers_makes_no_difference(cut: int) -> None:
    first = advance(PARCEL, track(*USUAL[:cut]), NOW)
    second = advance(first.after, track(*USUAL), NOW)
    whole = advance(PARCEL, track(*USUAL), NOW)
    assert second.after.status is whole.after.status
    assert (*first.changes, *second.changes) == whole.changes
    assert [said.pickup for said in (first, second)].count(USUAL[1]) == 1


def test_a_pickup_that_is_told_after_the_transit_is_still_a_pickup() -> None:
    moving = advance(PARCEL, track(scan(5, S.IN_TRANSIT)), NOW)
    assert moving.pickup is None
    late = advance(moving.after, track(scan(5, S.IN_TRANSIT), scan(3, S.PICKED_UP)), NOW)
    assert late.pickup == scan(3, S.PICKED_UP)
    assert (late.after.status, late.changes) == (S.IN_TRANSIT, ())


def test_a_label_is_not_a_pickup() -> None:
    said = advance(PARCEL, track(scan(0.1, S.LABEL_PRINTED), scan(1, None)), NOW)
    assert (said.pickup, said.changes, said.after.status) == (None, (), S.LABEL_PRINTED)
    assert said.after.moving_since is None


def test_an_empty_answer_is_no_fact() -> None:
    assert advance(PARCEL, Track("kuaidi100", "aggregator", ()), NOW).after == PARCEL


def test_going_backwards_is_told_and_ends_nothing() -> None:
    way = (scan(3, S.PICKED_UP), scan(20, S.DELIVERING), scan(22, S.IN_TRANSIT), scan(30, S.DELIVERING))
    said = advance(PARCEL, track(*way), NOW)
    assert [change.status for change in said.changes] == [S.DELIVERING, S.IN_TRANSIT, S.DELIVERING]


@pytest.mark.parametrize(
    ("later", "expected"),
    [(S.IN_TRANSIT, S.DELIVERED), (S.EXCEPTION, S.DELIVERED), (S.RETURNED, S.RETURNED)],
)
def test_only_a_return_undoes_a_signature(later: ParcelStatus, expected: ParcelStatus) -> None:
    assert advance(PARCEL, track(*USUAL, scan(30, later)), NOW).after.status is expected


@pytest.mark.parametrize("at", [LABEL - timedelta(days=200), NOW + timedelta(days=300)])
def test_the_earlier_life_of_a_number_and_a_wrong_clock_are_not_believed(at: datetime) -> None:
    foreign = Scan(at, S.DELIVERED, "3", "delivered")
    assert advance(PARCEL, track(foreign), NOW).after.status is S.LABEL_PRINTED


def test_a_silent_parcel_that_moves_after_all_moves() -> None:
    silent = Parcel(PARCEL.order_no, "zto", PARCEL.waybill_no, LABEL, status=S.SILENT, reported_silent=True)
    assert advance(silent, track(scan(40, S.PICKED_UP)), NOW).after.status is S.PICKED_UP


@given(st.lists(st.tuples(st.integers(0, 40), st.sampled_from([*S, None])), max_size=12))
def test_whatever_is_told_is_told_once(told: list[tuple[int, ParcelStatus | None]]) -> None:
    parcel, changes, pickups = PARCEL, list[Scan](), list[Scan]()
    for answer in itertools.accumulate(([one] for one in told), lambda a, b: a + b):
        said = advance(parcel, track(*(scan(hours, status) for hours, status in answer)), NOW)
        parcel = said.after
        changes += said.changes
        pickups += [said.pickup] if said.pickup else []
    assert len(pickups) <= 1
    assert len(changes) == len(set(changes))
