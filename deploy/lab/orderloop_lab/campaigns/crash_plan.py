"""What one run of the campaign `crash` consists of: planned from its seed alone, so that it can be repeated."""

import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum

from .crash_lives import Life, Told, lives
from .payments_plan import digest

ORDERS = 60  # some 300 records with their repeats
_CHUNKS = 10  # of what comes early; as many transactions and more
_REPEATED = 0.35
_AWAY = (0.0, 1.0, 3.0)  # seconds


class Trouble(StrEnum):
    """What befalls a run besides repeats and disorder."""

    KILL = "kill -9 at a step"
    FREEZE = "frozen with row locks beyond its session"
    REBALANCE = "a second replica comes, goes and comes in mid-batch"
    REPLICAS = "three replicas, one killed, one frozen"
    CUT_AFTER = "connection cut after COMMIT was carried out"
    CUT_BEFORE = "connection cut before COMMIT arrived"
    POSTGRES = "PostgreSQL stopped at once and away for a while"
    BROKER = "Kafka killed and started again"


CORE = (
    "order-core.after_poll",
    "order-core.after_claim",
    "order-core.after_lock",
    "order-core.before_commit",
    "order-core.after_commit",
    "order-core.before_offset_commit",
)
RELAY = ("relay.after_read", "relay.after_produce", "relay.after_ack")
OCCURRENCES = ("first", "nth", "random")
# These stop what other runs stand on as well.
ALONE = frozenset({Trouble.POSTGRES, Trouble.BROKER})

_KILLS = [(Trouble.KILL, point, when) for when in OCCURRENCES for point in (*CORE, *RELAY)]
_OTHERS = [(trouble, "", "") for trouble in Trouble if trouble is not Trouble.KILL]
MATRIX = (*_KILLS, *_OTHERS)  # consecutive seeds go through all of it


@dataclass(frozen=True, slots=True)
class Fault:
    trouble: Trouble
    failpoint: str  # "" unless something is killed at it
    nth: int  # visit of the failpoint, or chunk of the records, at which it strikes
    away_seconds: float = 0.0  # how long PostgreSQL or Kafka stays away, its own start not counted

    def __str__(self) -> str:
        return f"{self.failpoint}@{self.nth}" if self.failpoint else f"{self.trouble}, {self.nth}"


@dataclass(frozen=True, slots=True)
class Plan:
    seed: int
    fault: Fault
    lives: tuple[Life, ...]
    early: tuple[tuple[tuple[int, int], ...], ...]  # chunks of (life, which of its early records)
    late: tuple[tuple[tuple[int, int], ...], ...]  # of its early and late records together

    @property
    def records(self) -> int:
        return sum(map(len, (*self.early, *self.late)))

    @property
    def digest(self) -> str:
        return digest(asdict(self))

    def early_chunks(self) -> Iterator[list[tuple[int, Told]]]:
        for chunk in self.early:
            yield [(life, self.lives[life].early[n]) for life, n in chunk]

    def late_chunks(self) -> Iterator[list[tuple[int, Told]]]:
        for chunk in self.late:
            yield [(life, (*self.lives[life].early, *self.lives[life].late)[n]) for life, n in chunk]


def plan(seed: int) -> Plan:
    """The same for the same seed."""
    trouble, failpoint, when = MATRIX[seed % len(MATRIX)]
    chance = random.Random(f"crash:{seed}")
    everyone = tuple(lives(ORDERS, chance))
    early = [(life, n) for life, one in enumerate(everyone) for n in range(len(one.early))]
    late = [
        (life, len(one.early) + n) for life, one in enumerate(everyone) for n in range(len(one.late))
    ] + chance.sample(early, k=len(early) // 5)  # whole batches of repeats, long after the first telling
    fault = Fault(trouble, failpoint, _visit(when, chance), chance.choice(_AWAY) if trouble in ALONE else 0.0)
    return Plan(seed, fault, everyone, _chunks(early, _CHUNKS, chance), _chunks(late, _CHUNKS // 3, chance))


def _visit(when: str, chance: random.Random) -> int:
    match when:
        case "first":
            return 1
        case "nth":
            return 4
        case _:  # each chunk surely makes one visit
            return chance.randint(1, _CHUNKS - 1)


def _chunks(told: list[tuple[int, int]], count: int, chance: random.Random) -> tuple[tuple[tuple[int, int], ...], ...]:
    """In any order, many of them more than once, and in pieces of any size."""
    repeats = [one for one in told if chance.random() < _REPEATED for _ in range(chance.choice((1, 1, 2)))]
    shuffled = chance.sample(told + repeats, k=len(told) + len(repeats))
    cuts = sorted(chance.sample(range(1, len(shuffled)), k=count - 1))
    return tuple(tuple(shuffled[a:b]) for a, b in zip([0, *cuts], [*cuts, len(shuffled)], strict=True))
