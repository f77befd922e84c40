"""What a check found."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

_SHOWN = 20  # per invariant: a broken invariant is broken many times, and the first few tell why
_REMEDY = (
    "What a topic no longer has cannot be checked any more: begin anew with `python -m orderloop_lab down --remove` "
    "and `make up`, or check the databases alone with `python -m orderloop_lab verify --database NAME=DSN`."
)


@dataclass(frozen=True, slots=True)
class Violation:
    invariant: str
    sentence: str


@dataclass(slots=True)
class Report:
    titles: dict[str, str] = field(default_factory=dict[str, str])
    checked: dict[str, int] = field(default_factory=dict[str, int])  # by invariant: how much it had to look at
    without: dict[str, str] = field(default_factory=dict[str, str])  # by checked invariant: what it could do without
    unchecked: dict[str, str] = field(default_factory=dict[str, str])  # by invariant: why
    unreadable: str = ""  # what there is to look at, and cannot be
    violations: list[Violation] = field(default_factory=list[Violation])  # the first of each invariant
    counts: Counter[str] = field(default_factory=Counter[str])  # all of them

    @property
    def clean(self) -> bool:
        return not self.counts

    @property
    def passed(self) -> bool:
        """Nothing is wrong, and whatever should be looked at could be."""
        return self.clean and not self.unreadable

    @property
    def summary(self) -> str:
        unchecked = f", {len(self.unchecked)} not checked" if self.unchecked else ""
        return f"invariants: {len(self.checked)} checked, {self.counts.total()} violations{unchecked}"

    def begin(self, name: str, title: str, scope: int, *, without: str) -> None:
        self.titles[name] = title
        self.checked[name] = scope
        if without:
            self.without[name] = without

    def leave_out(self, name: str, title: str, why: str) -> None:
        self.titles[name] = title
        self.unchecked[name] = why

    def objections(self, *needed: str) -> list[str]:
        """Every violation, and which of the `needed` invariants had nothing to look at."""
        blind = [f"{name} was not checked: {self.unchecked[name]}" for name in needed if name in self.unchecked]
        idle = [f"{name} had nothing to look at" for name in needed if self.checked.get(name) == 0]
        return [*(f"{one.invariant}: {one.sentence}" for one in self.violations), *blind, *idle]

    def add(self, name: str, sentence: str) -> None:
        self.counts[name] += 1
        if self.counts[name] <= _SHOWN:
            self.violations.append(Violation(name, sentence))

    def as_json(self) -> dict[str, Any]:
        return {
            "checked": self.checked,
            "without": self.without,
            "unchecked": self.unchecked,
            "counts": dict(self.counts),
            "violations": [{"invariant": one.invariant, "sentence": one.sentence} for one in self.violations],
        }

    def show(self, console: Console) -> None:
        table = Table("id", "invariant", "looked at", "violations")
        for name, title in self.titles.items():
            if why := self.unchecked.get(name):
                table.add_row(name, title, "", f"[yellow]not checked: {why}")
                continue
            found = f"[red]{self.counts[name]}" if self.counts[name] else "[green]0"
            table.add_row(name, title, f"{self.checked[name]:,}", found)
        console.print(table)
        for name, what in self.without.items():
            console.print(f"{name}: checked without {what}", highlight=False)
        if self.unreadable:
            console.print(f"{self.unreadable}. {_REMEDY}", style="bold red", highlight=False, soft_wrap=True)
        for violation in self.violations:
            console.print(f"{violation.invariant}: {violation.sentence}", markup=False, highlight=False, soft_wrap=True)
        for name, count in self.counts.items():
            if count > _SHOWN:
                console.print(f"{name}: and {count - _SHOWN} more", highlight=False)
        console.print(self.summary, style="green" if self.passed else "bold red", highlight=False)
