"""`python -m tests.bench [name …]`: measure, print a table, write build/bench.json."""

import asyncio
import os
import sys
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Annotated

import typer
import uvloop
from rich.console import Console
from rich.progress import Progress

from orderloop_lab import backing
from orderloop_lab.errors import LabError
from orderloop_lab.home import Home
from orderloop_lab.processes import Supervisor
from orderloop_lab.progress import step, steps
from tests.bench import harness, write_path
from tests.bench.harness import Result
from tests.support import sessions
from tests.support.databases import Databases

BENCHMARKS: dict[str, write_path.Workload] = {"payments": write_path.PAYMENTS, "lives": write_path.LIVES}


cli = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@cli.command()
def main(  # noqa: PLR0917 # the command line
    names: Annotated[list[str] | None, typer.Argument(help=f"of {', '.join(BENCHMARKS)}; all without a name")] = None,
    rounds: Annotated[int, typer.Option(min=harness.LEAST_ROUNDS)] = 7,
    batches: Annotated[int, typer.Option(min=1, help="of 500 events, per contender and round")] = 20,
    existing: Annotated[int, typer.Option(help="orders that are there already")] = 200_000,
    seed: int = 1,
    out: Annotated[Path, typer.Option(help="where the figures are saved")] = Path("build/bench.json"),
) -> None:
    """Measure round by round in turn. Exit code 1 if a checker found a fault: then there is no figure."""
    chosen = names or list(BENCHMARKS)
    if unknown := [name for name in chosen if name not in BENCHMARKS]:
        raise typer.BadParameter(f"no such benchmark: {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    scale = write_path.Scale(rounds, batches, existing, seed)
    home = sessions.new_home()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            results = runner.run(_measure(chosen, scale, home))
    except LabError as error:
        Console(stderr=True).print(f"[red]bench:[/] {error}", soft_wrap=True)
        sys.exit(2)
    finally:
        sessions.remove(home)
    console = Console()
    if not console.is_terminal:
        console.width = 150  # a log has no width of its own; a narrower table would cut its figures
    console.print(f"{rounds} rounds of {batches} x {write_path.BATCH} events, {existing:,} older orders, seed {seed}")
    harness.show(results, console=console)
    harness.save(results, out)
    sys.exit(any(result.faults for result in results))


async def _measure(names: list[str], scale: write_path.Scale, home: Home) -> list[Result]:
    results: list[Result] = []
    with steps() as progress, tempfile.TemporaryDirectory() as folder:
        url = await backing.provide(backing.POSTGRES, home, Supervisor(home), progress, os.environ)
        databases = await asyncio.to_thread(Databases, url)
        try:
            for name in names:
                results += await _run(BENCHMARKS[name], scale, databases, Path(folder), progress)
        finally:
            await asyncio.to_thread(databases.drop_templates)
    return results


async def _run(
    workload: write_path.Workload, scale: write_path.Scale, databases: Databases, folder: Path, progress: Progress
) -> list[Result]:
    async with AsyncExitStack() as stack:
        with step(progress, f"{workload.name}: reserving orders and rehearsing"):
            benchmark = await stack.enter_async_context(
                write_path.benchmark(workload, scale, databases=databases, folder=folder)
            )
        return await harness.run(benchmark, rounds=scale.rounds, progress=progress)


if __name__ == "__main__":
    cli()
