"""What a person sees while something slow happens."""

from collections.abc import Generator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn


def steps(*, quiet: bool = False) -> Progress:
    """On standard error, so that standard output stays for answers (`--json`)."""
    columns = (SpinnerColumn(finished_text="[green]✓"), TextColumn("{task.description}"), BarColumn(20))
    return Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True), disable=quiet)


@contextmanager
def step(progress: Progress, description: str, total: int | None = None) -> Generator[TaskID, None, None]:
    """One line with a spinner, or a bar where `total` is known; ticked when the block ends without an error."""
    task = progress.add_task(description, total=total)
    yield task
    progress.update(task, total=total or 1, completed=total or 1)
