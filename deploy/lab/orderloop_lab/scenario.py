"""What a run of orders is made of: planned from a seed, without looking at a clock, so that it can be told again."""

import random
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum


class Mishap(StrEnum):
    """What goes wrong with one order on its way."""

    DUPLICATE_NOTICE = "duplicate_notice"  # WeChat sends its notice again after it was acknowledged
    SIMULTANEOUS_NOTICES = "simultaneous_notices"  # two copies at the same instant
    LOST_NOTICE = "lost_notice"  # the first notice never leaves the building
    PROBE = "probe"  # a signature probe comes before the payment
    FORGED_NOTICE = "forged_notice"  # a stranger says that the order is paid
    SHIPPED_TWICE = "shipped_twice"  # an old browser sends the ship request twice, with keys of its own
    SLOW_BANK = "slow_bank"  # the bank pays, and answers too late
    AGGREGATOR_DOWN = "aggregator_down"  # Kuaidi100 fails for this parcel; the courier itself answers
    SILENT_COURIER = "silent_courier"  # label printed, nobody came


# One of each in every run; then a few more of those that are everyday life.
_ONCE = (
    Mishap.PROBE,
    Mishap.FORGED_NOTICE,
    Mishap.SLOW_BANK,
    Mishap.SILENT_COURIER,
    Mishap.AGGREGATOR_DOWN,
    Mishap.LOST_NOTICE,
    Mishap.SIMULTANEOUS_NOTICES,
    Mishap.SHIPPED_TWICE,
    Mishap.DUPLICATE_NOTICE,
)
_EVERYDAY = {Mishap.DUPLICATE_NOTICE: 0.03, Mishap.SIMULTANEOUS_NOTICES: 0.01, Mishap.SHIPPED_TWICE: 0.01}

_GOODS = (("SOFA-3", "三人沙发", 359900), ("LAMP-1", "落地灯", 29900), ("DESK-2", "升降桌", 189900))
_REGIONS = ("江苏", "浙江", "上海", "广东", "四川")
_FAMILY_NAMES = "赵钱孙李周吴郑王"


@dataclass(frozen=True, slots=True)
class OrderPlan:
    external_order_id: str
    sku: str
    name: str
    quantity: int
    amount_fen: int
    receiver: str
    region: str
    phone: str
    mishaps: frozenset[Mishap]

    @property
    def final_status(self) -> str:
        """Where the order ends when everything works: only a parcel that nobody carries stays on its way."""
        return "shipped" if Mishap.SILENT_COURIER in self.mishaps else "completed"


def plan(orders: int, *, seed: int) -> list[OrderPlan]:
    """The same orders with the same mishaps for the same arguments. Every mishap occurs once if there is room."""
    chance = random.Random(f"orderloop:{seed}:{orders}")
    places = chance.sample(range(orders), k=min(orders, len(_ONCE)))
    once = dict(zip(places, _ONCE, strict=False))
    return [_order(n, chance, once.get(n)) for n in range(orders)]


def final_states(plans: list[OrderPlan]) -> Counter[str]:
    return Counter(one.final_status for one in plans)


def _order(n: int, chance: random.Random, mishap: Mishap | None) -> OrderPlan:
    sku, name, price = chance.choice(_GOODS)
    quantity = chance.choice((1, 1, 1, 2))
    everyday = {kind for kind, share in _EVERYDAY.items() if chance.random() < share}
    return OrderPlan(
        external_order_id=f"{n + 1:06d}",
        sku=sku,
        name=name,
        quantity=quantity,
        amount_fen=price * quantity - chance.randrange(0, 100),
        receiver=chance.choice(_FAMILY_NAMES) + "先生",
        region=chance.choice(_REGIONS),
        phone=f"138{chance.randrange(10**8):08d}",
        mishaps=frozenset({mishap} if mishap else everyday),
    )
