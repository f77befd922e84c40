"""`python -m orderloop_lab`: the lab from the command line."""

import asyncio
import dataclasses
import json
import logging
import sys
from collections.abc import Awaitable, Callable
from typing import Annotated

import structlog
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from orderloop_lab import jaeger as jaeger_build
from orderloop_lab.errors import LabError
from orderloop_lab.home import Home, default_folder
from orderloop_lab.processes import Status, Supervisor
from orderloop_lab.progress import steps
from orderloop_lab.system import TIME_FACTOR, Lab

HELP = """
The whole of OrderLoop on this machine, without any account: real PostgreSQL, Kafka and Valkey, simulators of WeChat
Pay, couriers, the warehouse and the bank, and every service.

\b
    up        start everything (again: only what does not run)
    demo      orders from payment to money in the bank, mishaps included, and a verdict on the books
    verify    check every invariant of the books, of the lab that is up or of databases that are named; only reads
    campaign  thousands of orders and one kind of trouble, in a lab of its own
    down      stop everything

All state lies in .lab/ (or ORDERLOOP_LAB_STATE); downloads are kept in ~/.cache/orderloop (or ORDERLOOP_LAB_CACHE).
ORDERLOOP_POSTGRES_URL (an administrator), ORDERLOOP_KAFKA_BOOTSTRAP and ORDERLOOP_REDIS_URL each make the lab use a
service that runs already instead of starting one.
"""

cli = typer.Typer(help=HELP, no_args_is_help=True, add_completion=False, rich_markup_mode=None)

AsJson = Annotated[bool, typer.Option("--json", help="machine-readable, on standard output")]
Factor = Annotated[
    float | None,
    typer.Option(
        min=1, help=f"seconds of waiting that pass in one; kept for the next time, {TIME_FACTOR:.0f} at first"
    ),
]


@cli.command()
def up(as_json: AsJson = False, time_factor: Factor = None) -> None:
    """Start everything that does not run yet, and say where it listens."""
    with steps() as progress:
        lab = Lab(default_folder(), progress=progress, time_factor=time_factor)
        asyncio.run(lab.up())
    _show(lab.status(), as_json=as_json)


@cli.command()
def down(
    remove: Annotated[bool, typer.Option(help="forget all data, ports and secrets of this lab too")] = False,
) -> None:
    """Stop everything this lab has started, also what an interrupted run left behind."""
    asyncio.run(Lab(default_folder()).down(remove=remove))


@cli.command()
def status(as_json: AsJson = False) -> None:
    """What runs, where it listens, and how much memory it takes."""
    _show(Lab(default_folder()).status(), as_json=as_json)


@cli.command()
def logs(
    name: Annotated[str, typer.Argument(help="a process as `status` names it")],
    lines: Annotated[int, typer.Option(help="how many of the last lines")] = 50,
) -> None:
    """Print the last lines of a process's log."""
    file = Supervisor(Home(default_folder())).log(name)
    if not file.exists():
        raise LabError(f"{name} has no log here: `python -m orderloop_lab status` lists the names.")
    print("\n".join(file.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:]))


@cli.command()
def jaeger() -> None:
    """Build Jaeger into the cache (once per machine, needs Go); the next `up` uses it."""
    with steps() as progress:
        print(jaeger_build.build(progress))


@cli.command()
def verify(
    as_json: AsJson = False,
    database: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=DSN", help="look there instead of at the lab; order_core, settlement, …: one each"),
    ] = None,
    kafka: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="with --database: the topics too")] = None,
    topic_prefix: Annotated[str, typer.Option(help="with --kafka: what stands before the topics' names")] = "",
) -> None:
    """Check every invariant of the lab that is up, or of what is named; it only reads.

    Exit code 1 if an invariant does not hold, or could not be checked although there is something to look at.
    """
    from orderloop_lab.invariants import World, main, world_of  # noqa: PLC0415 # the other commands work without it

    if database or kafka:
        world = world_of(database or [], kafka=kafka, topic_prefix=topic_prefix)
    else:
        world = World.running(default_folder())
    sys.exit(asyncio.run(main(world, as_json=as_json)))


@cli.command()
def demo(
    orders: Annotated[int, typer.Option(min=1, max=100_000, help="how many orders")] = 200,
    seed: Annotated[int, typer.Option(help="the same seed plans the same orders, mishaps and ends")] = 1,
) -> None:
    """Send orders through the whole system and judge the books; starts the lab where it is down, and leaves it up."""
    from orderloop_lab.demo import main  # noqa: PLC0415 # the other commands work without it

    sys.exit(_on_running_lab(lambda lab: main(lab, orders=orders, seed=seed)))


@cli.command()
def campaign(
    name: Annotated[str, typer.Argument(help="one of those that `campaigns` lists")] = "payments",
    n: Annotated[int | None, typer.Option(max=1_000_000, help="how many orders, runs or minutes")] = None,
    seed: Annotated[int, typer.Option(help="the same seed plans the same trouble, and ends in the same sets")] = 1,
) -> None:
    """Run a campaign in a lab of its own, started and removed; exit code 1 on any violation."""
    from orderloop_lab.campaigns import main  # noqa: PLC0415 # the other commands work without it

    sys.exit(main(name, n=n, seed=seed, folder=default_folder() / "campaigns"))


@cli.command()
def campaigns() -> None:
    """List the campaigns, what each is for and how large it usually is."""
    from orderloop_lab.campaigns import CAMPAIGNS  # noqa: PLC0415 # the other commands work without it

    for name, one in CAMPAIGNS.items():
        print(f"{name:10} {one.purpose} ({one.usual} {one.counts})")


def _on_running_lab(main: Callable[[Lab], Awaitable[int]]) -> int:
    async def run() -> int:
        with steps() as progress:
            lab = Lab(default_folder(), progress=progress)
            await lab.up()
        return await main(lab)

    return asyncio.run(run())


def _show(processes: list[Status], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps([dataclasses.asdict(process) for process in processes], indent=2))
        return
    table = Table("name", "state", "pid", "MiB", "url")
    for one in processes:
        colour = {"running": "green", "dead": "red"}.get(one.state, "yellow")
        state = f"[{colour}]{one.state}"
        table.add_row(one.name, state, str(one.pid or ""), str(one.memory_mib or ""), one.url)
    Console().print(table)


def main() -> None:
    # Standard output is for answers; migrations and the broker's client report every step they take.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # waiting for a broker is asking in vain for a while
    try:
        cli()
    except LabError as error:
        Console(stderr=True).print(f"[red]orderloop-lab:[/] {escape(str(error))}", soft_wrap=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
