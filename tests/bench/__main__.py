"""`python -m tests.bench [name …]`: measure, print a table, write build/bench.json."""

import asyncio
import logging
import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
import uvloop
from rich.console import Console

from orderloop_lab import backing
from orderloop_lab.errors import LabError
from orderloop_lab.home import Home
from orderloop_lab.processes import Supervisor
from orderloop_lab.progress import step, steps
from tests.bench import callbacks, end_to_end, harness, relay, write_path
from tests.bench.harness import Benchmark, Result
from tests.support import sessions
from tests.support.databases import Databases


@dataclass(frozen=True, slots=True)
class Scales:
    write_path: write_path.Scale
    callbacks: callbacks.Scale
    relay: relay.Scale
    end_to_end: end_to_end.Scale


@dataclass(frozen=True, slots=True)
class Ground:
    """What benchmarks stand on."""

    scales: Scales
    databases: Databases
    home: Home
    folder: Path


Opening = AbstractAsyncContextManager[Benchmark]


def _write_path(workload: write_path.Workload) -> Callable[[Ground], Opening]:
    return lambda on: write_path.benchmark(workload, on.scales.write_path, databases=on.databases, folder=on.folder)


def _callbacks(on: Ground) -> Opening:
    return callbacks.benchmark(on.scales.callbacks, databases=on.databases, home=on.home)


def _relay(on: Ground) -> Opening:
    return relay.benchmark(on.scales.relay, databases=on.databases, home=on.home)


def _end_to_end(on: Ground) -> Opening:
    return end_to_end.benchmark(on.scales.end_to_end, databases=on.databases, home=on.home, folder=on.folder)


BENCHMARKS: dict[str, Callable[[Ground], Opening]] = {
    "payments": _write_path(write_path.PAYMENTS),
    "lives": _write_path(write_path.LIVES),
    "callbacks": _callbacks,
    "relay": _relay,
    "end-to-end": _end_to_end,
}

cli = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@cli.command()
def main(  # noqa: PLR0917 # the command line
    names: Annotated[list[str] | None, typer.Argument(help=f"of {', '.join(BENCHMARKS)}; all without a name")] = None,
    rounds: Annotated[int, typer.Option(min=harness.LEAST_ROUNDS)] = harness.LEAST_ROUNDS,
    batches: Annotated[int, typer.Option(min=1, help="of 500 events, per contender and round")] = 20,
    existing: Annotated[int, typer.Option(help="orders that are there already")] = 1_000_000,
    notices: Annotated[int, typer.Option(min=100, help="callbacks, per contender and round")] = 3000,
    seconds: Annotated[float, typer.Option(min=1, help="of each of the relay's open loops, per round")] = 5,
    backlog: Annotated[int, typer.Option(min=1000, help="outbox rows that the relay drains, per round")] = 1_000_000,
    seed: int = 1,
    out: Annotated[Path, typer.Option(help="where the figures are saved")] = Path("build/bench.json"),
) -> None:
    """Measure round by round in turn. Exit code 1: a checker's fault (then no figure counts), or a missed gate."""
    chosen = names or list(BENCHMARKS)
    if unknown := [name for name in chosen if name not in BENCHMARKS]:
        raise typer.BadParameter(f"no such benchmark: {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    scale = write_path.Scale(rounds, batches, existing, seed)
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # fresh topics have no leader for a moment
    home = sessions.new_home()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            stream = end_to_end.Scale(rounds, 2 * batches, existing, seed)
            scales = Scales(scale, callbacks.Scale(notices), relay.Scale(seconds, backlog), stream)
            results = runner.run(_measure(chosen, scales, home))
    except LabError as error:
        Console(stderr=True).print(f"[red]bench:[/] {error}", soft_wrap=True)
        sys.exit(2)
    finally:
        sessions.remove(home)
    console = Console()
    if not console.is_terminal:
        console.width = 150  # a log has no width of its own; a narrower table would cut its figures
    console.print(
        f"{rounds} rounds, each of {batches} x {write_path.BATCH} events ({existing:,} older orders, seed {seed}) "
        f"or of {notices:,} callbacks, or of twice {seconds:.0f} s and {backlog:,} rows; twice the events end-to-end"
    )
    harness.show(results, console=console)
    harness.save(results, out)
    sys.exit(any(result.faults or result.failure for result in results))


async def _measure(names: list[str], scales: Scales, home: Home) -> list[Result]:
    results: list[Result] = []
    with steps() as progress, tempfile.TemporaryDirectory() as folder:
        url = await backing.provide(backing.POSTGRES, home, Supervisor(home), progress, os.environ)
        databases = await asyncio.to_thread(Databases, url)
        ground = Ground(scales, databases, home, Path(folder))
        try:
            for name in names:
                async with AsyncExitStack() as stack:
                    with step(progress, f"{name}: preparing"):
                        benchmark = await stack.enter_async_context(BENCHMARKS[name](ground))
                    results += await harness.run(benchmark, rounds=scales.write_path.rounds, progress=progress)
        finally:
            await asyncio.to_thread(databases.drop_templates)
    return results


if __name__ == "__main__":
    cli()
