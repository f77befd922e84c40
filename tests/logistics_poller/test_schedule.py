"""When parcels are asked for, and what silence means."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logistics_poller.schedule import SHORTEST_GAP, Finding, Plan, Tier, Watch, finding, first_ask, next_ask

LABEL = datetime(2026, 1, 22, 9, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
DAY = timedelta(hours=24)

waybills = st.text("0123456789", min_size=8, max_size=15)
plans = st.lists(
    st.tuples(st.floats(1, 48), st.floats(0.01, 600)).map(
        lambda t: Tier(timedelta(hours=t[0]), timedelta(minutes=t[1]))
    ),
    min_size=1,
    max_size=4,
).map(lambda tiers: Plan(tiers=tuple(sorted(tiers, key=lambda tier: tier.until))))


def asks(plan: Plan, watch: Watch, outcomes: Iterable[bool] = ()) -> list[datetime]:
    """All asks from the label to the plan's end; an outcome of False = nobody answered, after the last: answered."""
    answered = iter(outcomes)
    times = [first_ask(plan, watch, watch.label_at)]
    failures = 0
    while len(times) < 5000:
        failures = 0 if next(answered, True) else failures + 1
        again = next_ask(plan, watch, times[-1], failures=failures)
        if again is None:
            return times
        times.append(again)
    raise AssertionError("the plan does not end")


def most_in_a_day(times: list[datetime]) -> int:
    return max(sum(1 for other in times if timedelta() <= other - at <= DAY) for at in times)


@given(plan=plans, waybill_no=waybills, outcomes=st.lists(st.booleans(), max_size=200))
def test_no_plan_and_no_failures_ask_more_than_48_times_in_24_hours(
    plan: Plan, waybill_no: str, outcomes: list[bool]
) -> None:
    assert most_in_a_day(asks(plan, Watch(waybill_no, LABEL), outcomes)) <= 48


@given(waybill_no=waybills)
def test_the_tiers_thin_out_from_half_an_hour_to_six_hours(waybill_no: str) -> None:
    watch = Watch(waybill_no, LABEL, reported_silent=True)
    ages = [at - LABEL for at in asks(Plan(), watch)]
    gaps = [(b - a, a) for a, b in zip([timedelta(), *ages], ages, strict=False)]
    for gap, age in gaps[:-1]:  # the last one ends with the plan
        wanted = timedelta(minutes=30) if age < 4 * HOUR else 2 * HOUR if age < 12 * HOUR else 6 * HOUR
        assert wanted < gap <= wanted * 1.1


@given(waybill_no=waybills)
def test_the_last_ask_falls_on_the_72nd_hour_and_finds_the_parcel_exhausted(waybill_no: str) -> None:
    watch = Watch(waybill_no, LABEL)
    last = asks(Plan(), watch)[-1]
    assert 72 * HOUR <= last - LABEL <= 72 * HOUR + SHORTEST_GAP
    assert finding(Plan(), watch, last) is Finding.EXHAUSTED


@given(waybill_no=waybills)
def test_the_silence_guard_speaks_at_24_hours_not_at_whichever_ask_comes_next(waybill_no: str) -> None:
    watch = Watch(waybill_no, LABEL)
    first = next(at for at in asks(Plan(), watch) if finding(Plan(), watch, at) is Finding.SILENT)
    assert DAY <= first - LABEL <= DAY + SHORTEST_GAP


@pytest.mark.parametrize(
    ("watch", "hours", "expected"),
    [
        (Watch("1", LABEL), 23.9, None),
        (Watch("1", LABEL), 24, Finding.SILENT),
        (Watch("1", LABEL, reported_silent=True), 30, None),  # once
        (Watch("1", LABEL, moving_since=LABEL + 3 * HOUR), 30, None),
        (Watch("1", LABEL, reported_silent=True), 72, Finding.EXHAUSTED),
        (Watch("1", LABEL, moving_since=LABEL + 3 * HOUR), 80, None),  # 72 h are the wait for the pickup alone
        (Watch("1", LABEL, moving_since=LABEL), 15 * 24, Finding.EXHAUSTED),
    ],
)
def test_what_silence_means(watch: Watch, hours: float, expected: Finding | None) -> None:
    assert finding(Plan(), watch, LABEL + hours * HOUR) is expected


@given(waybill_no=waybills)
def test_a_parcel_on_its_way_is_asked_for_every_12_hours_for_15_days(waybill_no: str) -> None:
    watch = Watch(waybill_no, LABEL, moving_since=LABEL + HOUR)
    at = LABEL + HOUR
    times: list[datetime] = []
    while (again := next_ask(Plan(), watch, at)) is not None:
        assert again - at <= 12 * HOUR * 1.1
        times.append(again)
        at = again
    assert 27 <= len(times) <= 31
    assert times[-1] - watch.label_at >= timedelta(days=15)


@given(waybill_no=waybills, failures=st.integers(1, 40), hours=st.floats(0, 71))
def test_an_ask_that_nobody_answered_is_repeated_no_later_than_the_tier_says(
    waybill_no: str, failures: int, hours: float
) -> None:
    watch = Watch(waybill_no, LABEL)
    now = LABEL + hours * HOUR
    failed, answered = next_ask(Plan(), watch, now, failures=failures), next_ask(Plan(), watch, now)
    assert failed is not None
    assert answered is not None
    assert SHORTEST_GAP <= failed - now <= max(answered - now, SHORTEST_GAP)


@given(waybill_no=waybills, hours=st.floats(0, 70), factor=st.floats(1, 100_000))
def test_a_compressed_plan_does_the_same_in_less_time(waybill_no: str, hours: float, factor: float) -> None:
    watch = Watch(waybill_no, LABEL)
    real = next_ask(Plan(), watch, LABEL + hours * HOUR)
    fast = next_ask(Plan().compressed(factor), watch, LABEL + hours * HOUR / factor)
    assert real is not None
    assert fast is not None
    assert abs((fast - LABEL) * factor - (real - LABEL)) <= timedelta(microseconds=20) * factor


def test_a_label_that_was_learnt_of_late_is_asked_for_at_once() -> None:
    now = LABEL + 10 * HOUR
    assert first_ask(Plan(), Watch("1", LABEL), now) == now


def test_parcels_of_one_print_run_spread_out() -> None:
    times = {first_ask(Plan(), Watch(f"7800000{n:05d}", LABEL), LABEL) for n in range(1000)}
    assert len(times) > 990
    assert max(times) - min(times) <= timedelta(minutes=30) * 0.07
