"""The invariant checker: what must hold of the books after any crash, load or chaos, on a running system too.

    report = await check(World.of(lab))                             everything
    report = await check(World({"order_core": dsn}))                what concerns this database alone
    python -m orderloop_lab verify                                 the lab that is up
    python -m orderloop_lab verify --database order_core=DSN       what is named, wherever it runs

It only reads. docs/guides/check-the-books.md tells operators how to read its answer.
How reading a system that does not stand still can be sound is told in `evidence`. Each invariant is one function:
`books` (order-core's own tables), `events` (databases and topics), `callbacks` (the channels' ledgers), `outside` (the
bank's and the warehouse's).

Not here, because a snapshot cannot show them: I10 (statements against matches, nothing is reconciled yet), I12 (that
deleting everything in Redis changes no result takes two runs), I8 has never been given out.
"""

import json
import sys
from collections.abc import Sequence

import asyncpg
from aiokafka.errors import KafkaError
from rich.console import Console

from orderloop_lab.errors import LabError

from . import books, callbacks, events, outside, registry
from .evidence import DATABASES, World, gather
from .report import Report, Violation
from .scope import scopes
from .topics import Broker

__all__ = ["Broker", "Report", "Violation", "World", "check", "main", "world_of"]

_REGISTERED = (books, callbacks, events, outside)  # importing them fills the registry


async def check(world: World) -> Report:
    """Look at everything in `world` once, and name what is wrong.

    Raises LabError when something of it does not answer, and asyncpg's and Kafka's errors.
    """
    async with gather(world) as evidence:
        report = Report(unreadable=evidence.unreadable)
        counts = await scopes(evidence)
        for invariant in registry.in_order():
            if missing := invariant.needs - evidence.sources:
                report.leave_out(invariant.id, invariant.title, evidence.why_not(missing))
                continue
            without = ", ".join(sorted(invariant.uses - evidence.sources))
            report.begin(invariant.id, invariant.title, counts[invariant.id], without=without)
            async for sentence in invariant.violations(evidence):
                report.add(invariant.id, sentence)
    return report


def world_of(databases: Sequence[str], *, kafka: str | None, topic_prefix: str) -> World:
    """What is given on the command line, each database as NAME=DSN. Raises LabError."""
    given: dict[str, str] = {}
    for one in databases:
        name, _, given[name] = one.partition("=")
        if name not in DATABASES or not given[name]:
            raise LabError(f"--database takes NAME=DSN, and {name!r} is none of {', '.join(DATABASES)} with a DSN.")
    if not given:
        raise LabError("Kafka alone tells nothing: name a database too, --database order_core=DSN.")
    return World(given, Broker(kafka, topic_prefix) if kafka else None)


async def main(world: World, *, as_json: bool = False) -> int:
    """Check a world that is there and print what was found; the exit code. Raises LabError."""
    try:
        report = await check(world)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, KafkaError) as error:
        raise LabError(f"Not everything can be read: {error or type(error).__name__}") from error
    if as_json:
        json.dump(report.as_json(), sys.stdout, ensure_ascii=False, indent=2)
        print()
    else:
        report.show(Console())
    return 0 if report.passed else 1
