from datetime import UTC, datetime, timedelta

from payment_callback.budget import Budget

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


def test_rows_and_bytes_are_limited_each_for_itself_and_anew_every_window() -> None:
    budget = Budget(rows=3, bytes=100, rows_per_address=9)

    assert [
        budget.spend(60, "1.1.1.1", NOON),
        budget.spend(60, "1.1.1.1", NOON),
        budget.spend(40, "1.1.1.1", NOON),
    ] == [True, False, True]
    assert [budget.spend(0, "1.1.1.1", NOON), budget.spend(0, "1.1.1.1", NOON)] == [True, False]
    assert budget.spend(100, "1.1.1.1", NOON + timedelta(minutes=59)) is False
    assert budget.spend(100, "1.1.1.1", NOON + timedelta(hours=1)) is True


def test_a_budget_of_nothing_allows_nothing() -> None:
    assert Budget(rows=0, bytes=0, rows_per_address=9).spend(0, "1.1.1.1", NOON) is False


def test_one_stranger_cannot_spend_what_is_there_for_all() -> None:
    budget = Budget(rows=10, bytes=1000, rows_per_address=2)

    assert [budget.spend(1, "9.9.9.9", NOON) for _ in range(4)] == [True, True, False, False]
    assert budget.spend(1, "8.8.8.8", NOON) is True
    assert budget.spend(1, "9.9.9.9", NOON + timedelta(hours=1)) is True


def test_the_addresses_of_one_ipv6_network_are_one_stranger() -> None:
    budget = Budget(rows=10, bytes=1000, rows_per_address=1)

    assert [budget.spend(1, f"2001:db8::{host}", NOON) for host in ("1", "2:0:0:0", "3")] == [True, False, False]
    assert budget.spend(1, "::ffff:9.9.9.9", NOON) is True
    assert budget.spend(1, "9.9.9.9", NOON) is False
    assert [budget.spend(1, odd, NOON) for odd in (None, "testclient")] == [True, False]


def test_strangers_beyond_counting_share_one_allowance() -> None:
    budget = Budget(rows=20_000, bytes=1000, rows_per_address=1)

    many = [budget.spend(0, f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}", NOON) for n in range(10_003)]

    assert many == [True] * 10_001 + [False] * 2
