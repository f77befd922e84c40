"""Who gets what of an order's money: values in, values out, exact to the fen."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

TEN_THOUSAND = 10_000


@dataclass(frozen=True, slots=True)
class Receiver:
    """One that is paid: `name` is ours and stays the same for ever, `account` is where the bank sends the money."""

    name: str
    account: str
    weight: int = 1  # of what the platform leaves over, relative to the other receivers


@dataclass(frozen=True, slots=True)
class SplitRule:
    """The platform takes its fee; the receivers share the rest by weight."""

    platform: Receiver
    platform_fee: int  # in 1/10 000 of the amount
    receivers: tuple[Receiver, ...]

    def __post_init__(self) -> None:
        names = [self.platform.name, *(receiver.name for receiver in self.receivers)]
        if not 0 <= self.platform_fee <= TEN_THOUSAND:
            raise ValueError(f"a platform fee of {self.platform_fee} is not within 0..{TEN_THOUSAND}")
        if len(set(names)) < len(names):
            raise ValueError(f"a receiver is named twice: {names}")
        if any(receiver.weight <= 0 for receiver in self.receivers):
            raise ValueError("a receiver's weight is a positive whole number")
        if not self.receivers and self.platform_fee < TEN_THOUSAND:
            raise ValueError("the rest after the fee has no receiver")

    @property
    def accounts(self) -> dict[str, str]:
        return {receiver.name: receiver.account for receiver in (self.platform, *self.receivers)}


@dataclass(frozen=True, slots=True)
class Share:
    receiver: Receiver
    amount_fen: int


def split(rule: SplitRule, amount_fen: int) -> tuple[Share, ...]:
    """The shares of `amount_fen`, which add up to it; who would get nothing is left out.

    Every share is its exact part rounded down or up. The fen that rounding down leaves over go to the largest
    remainders, and among equal ones to the receivers before the platform, in the order of the rule.
    """
    if amount_fen <= 0:
        raise ValueError(f"{amount_fen} fen cannot be split")
    fee = Fraction(rule.platform_fee, TEN_THOUSAND)
    weights = sum(receiver.weight for receiver in rule.receivers)
    exact = [(receiver, amount_fen * (1 - fee) * receiver.weight / weights) for receiver in rule.receivers]
    exact.append((rule.platform, amount_fen * fee))
    amounts = _largest_remainder([part for _, part in exact], amount_fen)
    return tuple(Share(receiver, amount) for (receiver, _), amount in zip(exact, amounts, strict=True) if amount > 0)


def _largest_remainder(parts: Sequence[Fraction], total: int) -> list[int]:
    amounts = [int(part) for part in parts]
    by_remainder = sorted(range(len(parts)), key=lambda at: amounts[at] - parts[at])  # stable: ties keep their order
    for at in by_remainder[: total - sum(amounts)]:
        amounts[at] += 1
    return amounts
