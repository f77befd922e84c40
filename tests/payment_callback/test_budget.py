from datetime import UTC, datetime, timedelta

from payment_callback.budget import Budget

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


def test_rows_and_bytes_are_limited_each_for_itself_and_anew_every_window() -> None:
    budget = Budget(rows=3, bytes=100)

    assert [budget.spend(60, NOON), budget.spend(60, NOON), budget.spend(40, NOON)] == [True, False, True]
    assert [budget.spend(0, NOON), budget.spend(0, NOON)] == [True, False]
    assert budget.spend(100, NOON + timedelta(minutes=59)) is False
    assert budget.spend(100, NOON + timedelta(hours=1)) is True


def test_a_budget_of_nothing_allows_nothing() -> None:
    assert Budget(rows=0, bytes=0).spend(0, NOON) is False
