"""When a channel is asked, and asked again."""

from datetime import UTC, datetime, timedelta

import pytest

from payment_callback.pace import Allowance, plan, wait

SINCE = datetime(2026, 11, 22, 9, tzinfo=UTC)
PLAN = plan(first_minutes=[30, 5, 15], then_minutes=60, time_factor=1)


@pytest.mark.parametrize(
    ("age", "due"),
    [(0, 5), (5, 15), (14.9, 15), (15, 30), (30, 90), (89, 90), (90, 150), (60 * 24, 60 * 24 + 30)],
)
def test_an_order_is_looked_at_after_five_fifteen_and_thirty_minutes_and_then_every_hour(
    age: float, due: float
) -> None:
    assert PLAN.after(SINCE, SINCE + timedelta(minutes=age)) == SINCE + timedelta(minutes=due)


def test_a_clock_that_runs_behind_the_orders_own_time_is_no_trouble() -> None:
    assert PLAN.after(SINCE, SINCE - timedelta(minutes=3)) == SINCE + timedelta(minutes=5)


def test_a_lab_divides_everything() -> None:
    fast = plan(first_minutes=[5], then_minutes=60, time_factor=60)

    assert fast.after(SINCE, SINCE) == SINCE + timedelta(seconds=5)
    assert fast.after(SINCE, SINCE + timedelta(seconds=5)) == SINCE + timedelta(seconds=65)


def test_without_first_ages_it_is_every_hour() -> None:
    hourly = plan(first_minutes=[], then_minutes=60, time_factor=1)

    assert hourly.after(SINCE, SINCE + timedelta(minutes=61)) == SINCE + timedelta(minutes=120)


def test_waits_grow_to_ten_minutes_and_stay_there() -> None:
    waits = [wait(attempts, time_factor=1).total_seconds() for attempts in (1, 2, 3, 9, 10, 10_000)]

    assert waits == [2, 4, 8, 512, 600, 600]


def test_an_allowance_is_spent_and_comes_back_with_time_but_never_more_than_a_second_of_it() -> None:
    allowance = Allowance(10)

    assert [allowance.take(8, SINCE), allowance.take(8, SINCE), allowance.take(8, SINCE)] == [8, 2, 0]
    assert allowance.take(8, SINCE + timedelta(seconds=0.5)) == 5
    assert allowance.take(100, SINCE + timedelta(hours=1)) == 10
    assert allowance.take(100, SINCE) == 0  # a clock that was set back
