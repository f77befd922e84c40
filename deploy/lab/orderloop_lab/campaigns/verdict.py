"""What a campaign found."""

from dataclasses import dataclass, field

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

_SHOWN = 20  # what is broken is broken many times, and the first few tell why


@dataclass(slots=True)
class Verdict:
    figures: dict[str, int | str]
    plan: str  # digest of what was to happen: the same for the same seed
    finals: str  # digest of what it came to: the same for the same plan
    violations: list[str] = field(default_factory=list[str])

    def show(self, console: Console) -> None:
        table = Table(box=SIMPLE, show_header=False)
        for name, value in self.figures.items():
            table.add_row(name, f"{value:,}" if isinstance(value, int) else value)
        table.add_row("plan", self.plan)
        table.add_row("final sets", self.finals)
        console.print(table)
        for sentence in self.violations[:_SHOWN]:
            console.print(f"violation: {sentence}", style="red", markup=False, highlight=False, soft_wrap=True)
        if (more := len(self.violations) - _SHOWN) > 0:
            console.print(f"and {more} violations more", style="red", highlight=False)
