"""The invariant checker: what must hold of the books after any crash, load or chaos, on a running system too.

    report = await check(World.of(lab))                             everything
    report = await check(World({"order_core": dsn}))                what concerns this database alone
    python -m orderloop_lab verify

How reading a system that does not stand still can be sound is told in `evidence`. Each invariant is one function:
`books` (order-core's own tables), `events` (databases and topics), `outside` (the simulators' ledgers).

Not here, because a snapshot cannot show them: I10 (statements against matches, nothing is reconciled yet), I12 (that
deleting everything in Redis changes no result takes two runs), I8 has never been given out.
"""

import json
import sys

from rich.console import Console

from orderloop_lab.system import Lab

from . import books, events, outside, registry
from .evidence import World, gather
from .report import Report, Violation
from .scope import scopes
from .topics import Broker

__all__ = ["Broker", "Report", "Violation", "World", "check", "main"]

_REGISTERED = (books, events, outside)  # importing them fills the registry


async def check(world: World) -> Report:
    """Look at everything in `world` once, and name what is wrong.

    Raises LabError when something of it does not answer, and asyncpg's and Kafka's errors.
    """
    report = Report()
    async with gather(world) as evidence:
        counts = await scopes(evidence)
        for invariant in registry.in_order():
            if invariant.needs <= evidence.sources:
                report.begin(invariant.id, invariant.title, counts[invariant.id])
                async for sentence in invariant.violations(evidence):
                    report.add(invariant.id, sentence)
    return report


async def main(lab: Lab, *, as_json: bool = False) -> int:
    """Check a running lab and print what was found; the exit code."""
    report = await check(World.of(lab))
    if as_json:
        json.dump(report.as_json(), sys.stdout, ensure_ascii=False, indent=2)
        print()
    else:
        report.show(Console())
    return 0 if report.clean else 1
