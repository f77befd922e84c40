"""Campaigns: many orders, one kind of trouble in all its forms, planned from a seed, judged at the end.

    python -m orderloop_lab campaign payments --n 10000 --seed 1

A campaign is a module with a sentence PURPOSE and `campaign(folder, n=, seed=, progress=) -> Verdict`; CAMPAIGNS names
it, and what its `n` counts. It has a lab of its own, apart from the one that `up` starts.
"""

import asyncio
import resource
import time
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import Progress

from orderloop_lab.errors import LabError
from orderloop_lab.home import Home
from orderloop_lab.processes import Supervisor
from orderloop_lab.progress import steps

from . import crash, outage, outbox, payments, refunds, ship
from .verdict import Verdict

__all__ = ["CAMPAIGNS", "Campaign", "Verdict", "main"]


class _Run(Protocol):
    def __call__(self, folder: Path, *, n: int, seed: int, progress: Progress) -> Awaitable[Verdict]: ...


@dataclass(frozen=True, slots=True)
class Campaign:
    purpose: str
    run: _Run
    counts: str  # what n is the number of
    usual: int
    least: int = 1


CAMPAIGNS: Mapping[str, Campaign] = {
    "payments": Campaign(payments.PURPOSE, payments.campaign, "orders", usual=10_000, least=20),
    "outbox": Campaign(outbox.PURPOSE, outbox.campaign, "rows", usual=1_000_000, least=1000),
    "crash": Campaign(crash.PURPOSE, crash.campaign, "runs", usual=200),
    "outage": Campaign(outage.PURPOSE, outage.campaign, "minutes", usual=6),
    "refunds": Campaign(refunds.PURPOSE, refunds.campaign, "orders", usual=2000),
    "ship": Campaign(ship.PURPOSE, ship.campaign, "orders", usual=60),
}


def main(name: str, *, n: int | None, seed: int, folder: Path) -> int:
    """Run a campaign below `folder` and print what it found; 1 on any violation, whose lab then stays to be read."""
    if name not in CAMPAIGNS:
        raise LabError(f"There is no campaign {name}: the campaigns are {', '.join(CAMPAIGNS)}.")
    campaign = CAMPAIGNS[name]
    n = campaign.usual if n is None else n
    if n < campaign.least:
        raise LabError(f"The campaign {name} takes at least {campaign.least} {campaign.counts}.")
    home = folder / name
    home.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
    try:
        with FileLock(home.with_suffix(".lock"), timeout=0):
            return asyncio.run(_judged(name, n=n, seed=seed, home=home))
    except Timeout:
        raise LabError(f"The campaign {name} runs already: wait for it to end.") from None


async def _judged(name: str, *, n: int, seed: int, home: Path) -> int:
    await _remove(home)
    began, cpu = time.monotonic(), _cpu_seconds()
    with steps() as progress:
        verdict = await CAMPAIGNS[name].run(home, n=n, seed=seed, progress=progress)
    verdict.figures["duration, start and stop included"] = f"{time.monotonic() - began:.1f} s"
    verdict.figures["CPU, all processes"] = f"{_cpu_seconds() - cpu:.1f} s"
    console = Console()
    console.print(f"Campaign {name}, {n} {CAMPAIGNS[name].counts}, seed {seed}", style="bold", highlight=False)
    verdict.show(console)
    if verdict.violations:
        console.print(f"{len(verdict.violations)} violations; logs and ledgers stay in {home}", style="bold red")
        return 1
    console.print("0 violations", style="green", highlight=False)
    await _remove(home)
    return 0


async def _remove(folder: Path) -> None:
    """Whatever a run left there, its processes first."""
    home = Home(folder)
    await Supervisor(home).stop_all()
    home.remove()


def _cpu_seconds() -> float:
    """Of this process and of all processes that it has started and that have ended."""
    used = [resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)
