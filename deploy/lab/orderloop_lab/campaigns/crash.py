"""order-core and its relay under everything that can befall them, a run per seed, each judged by itself.

A run tells the lives of some sixty orders, in disorder and with repeats, while one thing goes wrong (`crash_plan`);
then every order must stand where its life leads, and the invariants must hold. RUNS=1 with a run's seed repeats it.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
from aiokafka.errors import KafkaError
from rich.progress import Progress

from orderloop_lab import invariants
from orderloop_lab.backing import kafka, postgres
from orderloop_lab.errors import LabError
from orderloop_lab.home import Home
from orderloop_lab.processes import Supervisor
from orderloop_lab.progress import step

from .crash_blows import Blow, strike
from .crash_plan import ALONE, Plan, plan
from .crash_scene import Ground, Scene, ground, scene
from .payments_plan import digest
from .verdict import Verdict

PURPOSE = "order-core and its relay killed, frozen and cut off at every step, under repeats and disorder"

LANES = 3  # runs at the same time: each waits more than it works
CHECKED = ("I1", "I2", "I3", "I4", "I5", "I7", "I9", "I14")
_PATIENCE_SECONDS = 90.0  # a frozen transaction takes a session and ten seconds, three replicas a rebalance each
_PAUSE_SECONDS = 0.2  # between chunks while something goes on that does not count visits
_HANDS = 8  # commands at the same time


@dataclass(slots=True)
class Outcome:
    plan: Plan
    seconds: float = 0.0
    finals: list[object] = field(default_factory=list[object])
    violations: list[str] = field(default_factory=list[str])
    checked: Mapping[str, int] = field(default_factory=dict[str, int])


async def campaign(folder: Path, *, n: int, seed: int, progress: Progress) -> Verdict:
    """Runs with the seeds from `seed` on."""
    return await campaign_of([plan(one) for one in range(seed, seed + n)], folder, progress=progress)


async def campaign_of(plans: Sequence[Plan], folder: Path, *, progress: Progress) -> Verdict:
    """On a PostgreSQL and a Kafka in `folder`, which are stopped again."""
    home = Home(folder)
    supervisor = Supervisor(home)
    try:
        bootstrap = await kafka.start(home, supervisor, progress)
        async with ground(home, await postgres.start(home, supervisor, progress), bootstrap) as around:
            with step(progress, "Runs", total=len(plans)) as bar:
                outcomes = await runs(around, plans, supervisor, done=lambda _: progress.update(bar, advance=1))
    finally:
        await supervisor.stop_all()
    return verdict(outcomes)


def verdict(outcomes: Sequence[Outcome]) -> Verdict:
    troubles = Counter(str(one.plan.fault.trouble) for one in outcomes)
    return Verdict(
        figures={
            "runs": len(outcomes),
            "records": sum(one.plan.records for one in outcomes),
            "seconds per run": f"{sum(one.seconds for one in outcomes) / len(outcomes):.1f}",
            **troubles,
            "looked at by the invariants": " ".join(
                f"{name}:{sum(one.checked.get(name, 0) for one in outcomes)}" for name in CHECKED
            ),
        },
        plan=digest([one.plan.digest for one in outcomes]),
        finals=digest([one.finals for one in outcomes]),
        violations=[
            f"seed {one.plan.seed} ({one.plan.fault}): {sentence}" for one in outcomes for sentence in one.violations
        ],
    )


async def runs(
    ground: Ground,
    plans: Sequence[Plan],
    supervisor: Supervisor | None = None,
    *,
    done: Callable[[Outcome], None] = lambda _: None,
) -> list[Outcome]:
    """One run per plan, several at a time; those that stop PostgreSQL or Kafka (by `supervisor`) alone."""
    lanes = asyncio.Semaphore(LANES)

    async def one(plan: Plan) -> Outcome:
        async with lanes:
            outcome = await run(ground, plan, supervisor)
        done(outcome)
        return outcome

    outcomes = await asyncio.gather(*(one(plan) for plan in plans if plan.fault.trouble not in ALONE))
    outcomes += [await one(plan) for plan in plans if plan.fault.trouble in ALONE]
    return sorted(outcomes, key=lambda outcome: outcome.plan.seed)


async def run(ground: Ground, plan: Plan, supervisor: Supervisor | None) -> Outcome:
    outcome = Outcome(plan)
    began = time.monotonic()
    try:
        async with scene(ground, f"crash_{ground.home.id}_{plan.seed}") as place:
            await place.cast([life.status is not None for life in plan.lives])
            async with strike(place, plan.fault, supervisor) as blow:
                outcome.violations += await _tell(place, plan, blow)
                await _until_it_has_struck(place, plan, blow)
                if not await place.until(place.settled, seconds=_patience(plan)):
                    outcome.violations.append("not everything was taken in and published")
                await _judge(place, outcome)
    except (LabError, KafkaError, asyncpg.PostgresError, OSError) as error:  # one run's end is not the campaign's
        outcome.violations.append(f"{type(error).__name__}: {error}")
    outcome.seconds = time.monotonic() - began
    return outcome


async def _tell(place: Scene, plan: Plan, blow: Blow) -> list[str]:
    """All lives, and their commands in between. What was refused, in sentences."""
    for n, chunk in enumerate(plan.early_chunks(), 1):
        await place.tell(chunk)
        if n == plan.fault.nth:
            blow.due.set()
        await _breath(place, blow)
    await place.until(place.settled, seconds=_patience(plan))
    hands = asyncio.Semaphore(_HANDS)

    async def command(number: int, route: str) -> str | None:
        async with hands:
            return await place.command(number, route)

    commands = [command(n, life.command) for n, life in enumerate(plan.lives) if life.command]
    refused = await asyncio.gather(*commands)
    for chunk in plan.late_chunks():
        await place.tell(chunk)
        await _breath(place, blow)
    return [sentence for sentence in refused if sentence]


def _patience(plan: Plan) -> float:
    return _PATIENCE_SECONDS + plan.fault.away_seconds


async def _breath(place: Scene, blow: Blow) -> None:
    """Each chunk a batch of its own until the blow has fallen, so that its visit surely comes; then all at once."""

    async def gone_on() -> bool:
        return blow.over or blow.failed or await place.settled()

    if not blow.over:
        await place.until(gone_on, seconds=_PATIENCE_SECONDS if blow.counts_visits else _PAUSE_SECONDS)


async def _until_it_has_struck(place: Scene, plan: Plan, blow: Blow) -> None:
    """Repeats go on as long as the trouble does."""
    chance = random.Random(plan.seed)
    early = [told for chunk in plan.early_chunks() for told in chunk]
    deadline = time.monotonic() + _patience(plan)
    while not (blow.over or blow.failed) and time.monotonic() < deadline:
        await place.tell(chance.sample(early, k=20))
        await _breath(place, blow)
    if not blow.over:
        raise LabError("the trouble did not come, or did not pass")


async def _judge(place: Scene, outcome: Outcome) -> None:
    """Against the plan, and by the invariants."""
    lives = outcome.plan.lives
    found = await place.books()
    for life, order_no in zip(lives, place.order_nos, strict=True):
        expected = (life.status, life.version, sorted(life.anomalies), life.waiting)
        outcome.finals.append(found[order_no])
        if found[order_no] != expected:
            outcome.violations.append(f"order {order_no} ({life.name}) is {found[order_no]}, and not {expected}")
    world = invariants.World(
        {"order_core": place.database_url}, invariants.Broker(place.ground.kafka.bootstrap, place.prefix)
    )
    report = await invariants.check(world)
    outcome.violations += report.objections(*CHECKED)
    outcome.checked = report.checked
