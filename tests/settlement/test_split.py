"""What the split promises about any amount and any rule."""

from fractions import Fraction
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from settlement.split import Receiver, SplitRule, split

PLATFORM = Receiver("platform", "P")


@st.composite
def rules(draw: st.DrawFn) -> SplitRule:
    weights = draw(st.lists(st.integers(1, 1_000_000), min_size=1, max_size=20))
    return SplitRule(
        platform=PLATFORM,
        platform_fee=draw(st.integers(0, 10_000)),
        receivers=tuple(Receiver(f"r{at}", f"account {at}", weight) for at, weight in enumerate(weights)),
    )


amounts = st.integers(1, 10**13)


def shares_of(rule: SplitRule, amount_fen: int) -> dict[str, int]:
    return {share.receiver.name: share.amount_fen for share in split(rule, amount_fen)}


@given(rules(), amounts)
def test_the_shares_always_add_up_to_the_amount(rule: SplitRule, amount_fen: int) -> None:
    assert sum(share.amount_fen for share in split(rule, amount_fen)) == amount_fen


@given(rules(), amounts)
def test_every_share_is_within_a_fen_of_its_exact_part(rule: SplitRule, amount_fen: int) -> None:
    shares = shares_of(rule, amount_fen)
    fee = Fraction(amount_fen * rule.platform_fee, 10_000)
    weights = sum(receiver.weight for receiver in rule.receivers)

    assert abs(shares.get("platform", 0) - fee) < 1
    for receiver in rule.receivers:
        assert abs(shares.get(receiver.name, 0) - (amount_fen - fee) * receiver.weight / weights) < 1


@given(rules(), amounts)
def test_everybody_is_paid_once_and_nobody_is_paid_nothing(rule: SplitRule, amount_fen: int) -> None:
    shares = split(rule, amount_fen)

    assert all(share.amount_fen > 0 for share in shares)
    assert len({share.receiver.name for share in shares}) == len(shares)


@given(rules(), amounts)
def test_who_weighs_more_never_gets_less(rule: SplitRule, amount_fen: int) -> None:
    shares = shares_of(rule, amount_fen)

    for one, other in combinations(rule.receivers, 2):
        lighter, heavier = sorted((one, other), key=lambda receiver: receiver.weight)
        if lighter.weight < heavier.weight:
            assert shares.get(lighter.name, 0) <= shares.get(heavier.name, 0)


def test_a_usual_order_pays_the_merchant_and_the_platform() -> None:
    rule = SplitRule(PLATFORM, 60, (Receiver("merchant", "M"),))

    assert shares_of(rule, 9_900) == {"merchant": 9_841, "platform": 59}  # 59.4 fen of fee


def test_a_single_fen_goes_to_the_largest_part_alone() -> None:
    rule = SplitRule(PLATFORM, 60, (Receiver("merchant", "M"),))

    assert shares_of(rule, 1) == {"merchant": 1}


def test_equal_remainders_favour_the_receivers_in_the_order_of_the_rule() -> None:
    rule = SplitRule(PLATFORM, 0, (Receiver("a", "A"), Receiver("b", "B"), Receiver("c", "C")))

    assert shares_of(rule, 100) == {"a": 34, "b": 33, "c": 33}


def test_a_fee_of_everything_needs_no_receiver() -> None:
    assert shares_of(SplitRule(PLATFORM, 10_000, ()), 5) == {"platform": 5}


@pytest.mark.parametrize(
    ("fee", "receivers"),
    [
        (-1, (Receiver("a", "A"),)),
        (10_001, (Receiver("a", "A"),)),
        (60, ()),
        (60, (Receiver("a", "A"), Receiver("a", "B"))),
        (60, (Receiver("platform", "A"),)),
        (60, (Receiver("a", "A", weight=0),)),
    ],
)
def test_a_rule_that_cannot_pay_everybody_is_refused_at_the_start(fee: int, receivers: tuple[Receiver, ...]) -> None:
    with pytest.raises(ValueError, match=r"."):
        SplitRule(PLATFORM, fee, receivers)


@pytest.mark.parametrize("amount_fen", [0, -1])
def test_no_money_is_not_split(amount_fen: int) -> None:
    with pytest.raises(ValueError, match="cannot be split"):
        split(SplitRule(PLATFORM, 60, (Receiver("a", "A"),)), amount_fen)
