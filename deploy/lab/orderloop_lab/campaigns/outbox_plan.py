"""What the campaign `outbox` consists of: planned from a seed alone, so that it can be repeated."""

import hashlib
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

LANES = 8  # transactions that are open at the same time
_HOT_ORDERS = 50  # which every lane changes: their transactions wait for each other
_PER_ORDER = 10  # versions, about
_MOST_ROWS = 500  # of one transaction, as many as order-core takes at once
_KILLS_PER_ROWS, _MOST_KILLS = 10_000, 8
_DIGITS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


@dataclass(frozen=True, slots=True)
class Transaction:
    order_nos: tuple[str, ...]  # sorted; each gets its next version
    pause: float  # seconds in the middle of staging, while others draw ids and commit
    rolled_back: bool


@dataclass(frozen=True, slots=True)
class Plan:
    rows: int
    seed: int

    @property
    def kills(self) -> Sequence[int]:
        """How many rows are published, at least, when the leader is killed."""
        count = max(1, min(_MOST_KILLS, self.rows // _KILLS_PER_ROWS))
        chance = random.Random(f"{self.seed} kills")
        part = self.rows / (count + 1)
        return [int(part * (n + chance.uniform(0.6, 1.2))) for n in range(count)]

    def lane(self, lane: int) -> Iterator[Transaction]:
        """Large transactions over orders of the lane's own, small ones over those that all lanes share."""
        chance = random.Random(f"{self.seed} lane {lane}")
        left = self.rows // LANES + (lane < self.rows % LANES)
        mine = [order_no(lane + 1, n) for n in range(max(20, left // _PER_ORDER))]
        hot = [order_no(0, n) for n in range(_HOT_ORDERS)]
        while left:
            small = chance.random() < 0.4
            most = 5 if small else 1 + int(_MOST_ROWS * chance.random() ** 2)
            orders = hot if small else mine
            chosen = chance.sample(orders, min(most, left, len(orders)))
            pause = chance.uniform(0.005, 0.05 if small else 0.3) if chance.random() < 0.3 else 0.0
            one = Transaction(tuple(sorted(chosen)), pause, rolled_back=chance.random() < 0.04)
            left -= 0 if one.rolled_back else len(chosen)
            yield one

    @property
    def finals(self) -> Counter[str]:
        """The last version of every order, from all that is committed."""
        committed = (one.order_nos for lane in range(LANES) for one in self.lane(lane) if not one.rolled_back)
        return Counter(number for order_nos in committed for number in order_nos)

    @property
    def digest(self) -> str:
        text = "\n".join(map(repr, (one for lane in range(LANES) for one in self.lane(lane))))
        return hashlib.sha256(f"{list(self.kills)}\n{text}".encode()).hexdigest()[:16]


def order_no(group: int, n: int) -> str:
    tail = ""
    for _ in range(9):
        n, digit = divmod(n, len(_DIGITS))
        tail = _DIGITS[digit] + tail
    return f"260301120000{group:03d}{tail}"
