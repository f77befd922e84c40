"""What the campaign `refunds` consists of: planned from its seed alone."""

import random
from dataclasses import asdict, dataclass

from .payments_plan import digest

AMOUNT = 9900
_WORDS = ("SUCCESS", "SUCCESS", "SUCCESS", "ABNORMAL", "CLOSED")  # how the channel ends a refund
_BANK = ("success", "success", "failed")
_MOST = 3  # refunds that anybody asks for; the channel's plan is made for each number there can be


@dataclass(frozen=True, slots=True)
class Act:
    """Somebody asks for something. Whether it is possible then is the order's affair."""

    what: str  # refund | refund the second payment | confirm-receipt
    amount_fen: int | None = None  # None: whatever is left


@dataclass(frozen=True, slots=True)
class Story:
    external_order_id: str
    paid_twice: bool
    labelled: bool  # before an unlabelled order nobody can confirm anything
    acts: tuple[Act, ...]  # in this order
    words: tuple[str, ...]  # of the channel on its refund R1, R2 …
    bank: str  # what becomes of its settlement


def plan(n: int, *, seed: int) -> list[Story]:
    chance = random.Random(f"refunds:{seed}:{n}")
    return [_story(number, chance) for number in range(n)]


def plan_digest(stories: list[Story]) -> str:
    return digest([asdict(story) for story in stories])


def _story(number: int, chance: random.Random) -> Story:
    paid_twice, labelled = chance.random() < 0.3, chance.random() < 0.8
    acts = [Act("refund", chance.choice((None, 900, 4000, 5000, AMOUNT))) for _ in range(chance.randint(1, _MOST))]
    if paid_twice:
        acts.append(Act("refund the second payment"))
    if labelled and chance.random() < 0.8:
        acts.append(Act("confirm-receipt"))
    words = tuple(chance.choice(_WORDS) for _ in range(_MOST + 1))
    return Story(
        f"{number:06d}", paid_twice, labelled, tuple(chance.sample(acts, len(acts))), words, chance.choice(_BANK)
    )
