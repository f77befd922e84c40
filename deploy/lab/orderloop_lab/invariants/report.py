"""What a check found."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

_SHOWN = 20  # per invariant: a broken invariant is broken many times, and the first few tell why


@dataclass(frozen=True, slots=True)
class Violation:
    invariant: str
    sentence: str


@dataclass(slots=True)
class Report:
    titles: dict[str, str] = field(default_factory=dict[str, str])
    checked: dict[str, int] = field(default_factory=dict[str, int])  # by invariant: how much it had to look at
    violations: list[Violation] = field(default_factory=list[Violation])  # the first of each invariant
    counts: Counter[str] = field(default_factory=Counter[str])  # all of them

    @property
    def clean(self) -> bool:
        return not self.counts

    @property
    def summary(self) -> str:
        return f"invariants: {len(self.titles)} checked, {self.counts.total()} violations"

    def begin(self, name: str, title: str, scope: int) -> None:
        self.titles[name] = title
        self.checked[name] = scope

    def objections(self, *needed: str) -> list[str]:
        """Every violation, and which of the `needed` invariants had nothing to look at."""
        idle = [f"{name} had nothing to look at" for name in needed if not self.checked.get(name)]
        return [*(f"{one.invariant}: {one.sentence}" for one in self.violations), *idle]

    def add(self, name: str, sentence: str) -> None:
        self.counts[name] += 1
        if self.counts[name] <= _SHOWN:
            self.violations.append(Violation(name, sentence))

    def as_json(self) -> dict[str, Any]:
        return {
            "checked": self.checked,
            "counts": dict(self.counts),
            "violations": [{"invariant": one.invariant, "sentence": one.sentence} for one in self.violations],
        }

    def show(self, console: Console) -> None:
        table = Table("id", "invariant", "looked at", "violations")
        for name, title in self.titles.items():
            found = f"[red]{self.counts[name]}" if self.counts[name] else "[green]0"
            table.add_row(name, title, f"{self.checked[name]:,}", found)
        console.print(table)
        for violation in self.violations:
            console.print(f"{violation.invariant}: {violation.sentence}", markup=False, highlight=False, soft_wrap=True)
        for name, count in self.counts.items():
            if count > _SHOWN:
                console.print(f"{name}: and {count - _SHOWN} more", highlight=False)
        console.print(self.summary, style="green" if self.clean else "bold red", highlight=False)
