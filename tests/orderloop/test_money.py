from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orderloop.money import fen, yuan


@given(st.integers(min_value=-(10**14), max_value=10**14))
def test_fen_to_yuan_and_back_is_exact(amount: int) -> None:
    assert fen(yuan(amount)) == amount


@pytest.mark.parametrize(
    ("text", "amount"),
    [("12.34", 1234), ("12", 1200), ("12.3", 1230), ("0.01", 1), ("-0.01", -1), ("+1.10", 110), ("12.3400", 1234)],
)
def test_yuan_as_bills_write_them(text: str, amount: int) -> None:
    assert fen(text) == amount


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        ".5",
        "5.",
        "12.345",
        "1e2",
        "1E+999999",
        "NaN",
        "sNaN",
        "Infinity",
        "1_000",
        " 1",
        "1 ",
        "１２",
        "--1",
        "1,000.00",
        "12.33" + "9" * 40,  # would round up to fen
        "9" * 40,
    ],
)
def test_what_is_not_a_whole_number_of_fen_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="yuan"):
        fen(text)


@given(st.text(max_size=20))
def test_any_text_is_an_amount_or_a_value_error(text: str) -> None:
    with suppress(ValueError):
        assert isinstance(fen(text), int)
