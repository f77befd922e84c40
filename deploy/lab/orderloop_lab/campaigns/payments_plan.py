"""What the campaign `payments` consists of: planned from a seed alone, so that it can be repeated."""

import hashlib
import json
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass

from orderloop_lab.simulators.wechat_keys import KeyMode

# Every step at which payment-callback may die: what was told is then unread, verified, stored, answered.
FAILPOINTS = (
    "payment_callback.before_verify",
    "payment_callback.after_verify",
    "payment_callback.after_commit",
    "payment_callback.after_answer",
)
_PAYMENTS_PER_ROUND, _MOST_ROUNDS = 1000, 5  # each round kills once at every step
_MOST_VISITS = 20  # of a failpoint, before it kills

Fault = int | str
_Drawn = Callable[[random.Random], Mapping[str, Fault]]

# Share of the payments: what happens to their notice, in the words of the simulator's `Faults`.
_SHARES: tuple[tuple[float, _Drawn], ...] = (
    (0.30, lambda chance: {"lose_first": chance.choice((1, 1, 1, 2))}),
    (0.05, lambda chance: {"delay": chance.randrange(60, 900)}),  # overtaken by those that were paid after it
    (0.02, lambda _: {"probe": 1}),
    (0.02, lambda _: {"forge": 1}),
    (0.01, lambda _: {"tamper": 1}),
    (0.01, lambda _: {"break_tag": 1}),
)
_REPEATED, _OF_THESE_SIMULTANEOUS = 0.20, 0.30
_ONLY_FORGED = 0.02  # so many orders more, which nobody pays


@dataclass(frozen=True, slots=True)
class Payment:
    external_order_id: str
    amount_fen: int
    paid: bool  # False: only a stranger says that it is
    faults: Mapping[str, Fault]


@dataclass(frozen=True, slots=True)
class Kill:
    """Payment-callback dies when it comes to `failpoint` for the `nth` time."""

    failpoint: str
    nth: int


@dataclass(frozen=True, slots=True)
class Plan:
    seed: int
    payments: tuple[Payment, ...]
    kills: tuple[Kill, ...]

    @property
    def paid(self) -> int:
        return sum(payment.paid for payment in self.payments)

    @property
    def digest(self) -> str:
        return digest(asdict(self))

    def stretches(self) -> Iterator[tuple[Kill | None, tuple[Payment, ...]]]:
        """The payments one stretch after another, and what kills payment-callback in each; in the first, nothing."""
        size = _size(len(self.payments), len(self.kills))
        for nth, kill in enumerate((None, *self.kills)):
            last = nth == len(self.kills)
            yield kill, self.payments[nth * size : None if last else (nth + 1) * size]


def plan(n: int, *, seed: int) -> Plan:
    """`n` payments, the orders that are only said to be paid, and the kills. The same for the same arguments."""
    chance = random.Random(f"payments:{seed}:{n}")
    faults: list[dict[str, Fault]] = [{"key_mode": _key_mode(place / n, chance)} for place in range(n)]
    for share, draw in _SHARES:
        for place in _some(n, share, chance):
            faults[place] |= draw(chance)
    repeated = _some(n, _REPEATED, chance)
    simultaneous = round(len(repeated) * _OF_THESE_SIMULTANEOUS)
    for place in repeated[:simultaneous]:
        faults[place]["simultaneous"] = chance.choice((2, 2, 3))
    for place in repeated[simultaneous:]:
        faults[place]["duplicates"] = chance.choice((1, 1, 2))
    told: list[tuple[bool, dict[str, Fault]]] = [(True, one) for one in faults]
    for _ in _some(n, _ONLY_FORGED, chance):
        told.insert(chance.randrange(len(told)), (False, {}))
    payments = tuple(
        Payment(f"{number:06d}", chance.randrange(1, 500_000), paid, one) for number, (paid, one) in enumerate(told, 1)
    )
    return Plan(seed, payments, _kills(n, len(payments), chance))


def digest(what: object) -> str:
    return hashlib.sha256(json.dumps(what, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]


def _some(n: int, share: float, chance: random.Random) -> list[int]:
    return chance.sample(range(n), k=max(1, round(n * share)))


def _key_mode(progress: float, chance: random.Random) -> str:
    """The merchant leaves the platform certificate for the public key; half-way both are in use."""
    if progress < 0.4:
        return KeyMode.CERTIFICATE.value
    if progress >= 0.6:
        return KeyMode.PUBLIC_KEY.value
    return chance.choice((KeyMode.CERTIFICATE, KeyMode.PUBLIC_KEY, KeyMode.MIXED)).value


def _kills(n: int, payments: int, chance: random.Random) -> tuple[Kill, ...]:
    rounds = max(1, min(_MOST_ROUNDS, n // _PAYMENTS_PER_ROUND))
    names = [name for _ in range(rounds) for name in chance.sample(FAILPOINTS, k=len(FAILPOINTS))]
    # A third of a stretch surely comes to every step, whatever else happens to it.
    most = max(1, min(_MOST_VISITS, _size(payments, len(names)) // 3))
    return tuple(Kill(name, chance.randint(1, most)) for name in names)


def _size(payments: int, kills: int) -> int:
    return payments // (kills + 1)
