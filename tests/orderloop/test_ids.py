import re
from datetime import UTC, datetime, timedelta, timezone

from hypothesis import given
from hypothesis import strategies as st

from orderloop.ids import ORDER_NO, is_order_no, new_order_no
from tests.support.kafka import AT

moments = st.datetimes(
    min_value=datetime(2020, 1, 1),  # noqa: DTZ001 # hypothesis wants these naive
    max_value=datetime(2090, 1, 1),  # noqa: DTZ001
    timezones=st.just(UTC),
)


@given(moments)
def test_a_new_order_number_is_one(now: datetime) -> None:
    order_no = new_order_no(now)

    assert is_order_no(order_no)
    assert re.fullmatch(r"[0-9A-Za-z_]{6,32}", order_no)  # what Alipay and WeChat Pay take


@given(moments, moments)
def test_order_numbers_sort_by_time(one: datetime, other: datetime) -> None:
    earlier, later = sorted((one.replace(microsecond=0), other.replace(microsecond=0)))

    assert later == earlier or new_order_no(earlier) < new_order_no(later)


def test_the_time_in_it_is_utc_wherever_it_is_asked() -> None:
    assert new_order_no(AT.astimezone(timezone(timedelta(hours=8))))[:12] == "260301120000"


def test_ten_thousand_of_one_second_differ() -> None:
    assert len({new_order_no(AT) for _ in range(10_000)}) == 10_000


@given(st.text(max_size=30) | st.from_regex(ORDER_NO))
def test_only_the_exact_shape_with_a_real_month_is_one(text: str) -> None:
    expected = (
        len(text) == 24
        and all(letter in "0123456789" for letter in text[:12])
        and all(letter in "0123456789ABCDEFGHJKMNPQRSTVWXYZ" for letter in text[12:])
        and text[2:4] in {f"{month:02d}" for month in range(1, 13)}
    )

    assert is_order_no(text) is expected
