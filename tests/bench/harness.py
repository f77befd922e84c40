"""Contenders take turns (A B C A B C …); figures are medians over the rounds, and ratios compare the same round.

A figure counts only if the benchmark's checker finds no fault in what all of its contenders have written.
"""

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from orderloop.serve import seldom_collecting
from orderloop_lab.progress import step

LEAST_ROUNDS = 5  # fewer, and one disturbed round decides the median

Measures = Mapping[str, float]  # by unit, such as {"events/s": 9000.0}; what a contender cannot measure is absent


@dataclass(frozen=True, slots=True)
class Contender:
    name: str
    measure: Callable[[int], Awaitable[Measures]]  # takes the round's number, from 0


@dataclass(frozen=True, slots=True)
class Figure:
    """What is told of the measures: a contender's, alone or beside a reference of the same unit."""

    name: str
    unit: str
    contender: str
    reference: str | None = None
    target: str = ""  # as people read it; nothing is asserted
    gate: float | None = None  # the least that the ratio's median may be: below it the command fails


@dataclass(frozen=True, slots=True)
class Benchmark:
    name: str
    contenders: Sequence[Contender]
    figures: Sequence[Figure]
    faults: Callable[[], Awaitable[Sequence[str]]]  # the checker, over everything that was written


@dataclass(frozen=True, slots=True)
class Spread:
    """Over the rounds."""

    middle: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(median(values), min(values), max(values))


@dataclass(frozen=True, slots=True)
class Result:
    benchmark: str
    figure: Figure
    rounds: int
    value: Spread
    reference_value: Spread | None
    ratio: Spread | None  # of the same round, not of the medians
    faults: Sequence[str]

    @property
    def failure(self) -> str | None:
        """That it is below its gate, in one sentence."""
        gate, ratio = self.figure.gate, self.ratio
        if self.faults or gate is None or ratio is None or ratio.middle >= gate:
            return None
        what = f"{self.benchmark}: {self.figure.name} / {self.figure.reference}, {self.figure.unit}"
        return f"{what} is {_number(ratio.middle)}, below its gate of {gate:g}"


async def run(benchmark: Benchmark, *, rounds: int, progress: Progress) -> list[Result]:
    measured: dict[str, list[Measures]] = {contender.name: [] for contender in benchmark.contenders}
    # As in a service; and the input, which no service holds in memory, is frozen before the collector walks over it.
    with (
        seldom_collecting(),
        step(progress, f"{benchmark.name}: measuring", total=rounds * len(benchmark.contenders)) as task,
    ):
        for number in range(rounds):
            for contender in benchmark.contenders:
                progress.update(task, description=f"{benchmark.name}: round {number + 1}/{rounds}, {contender.name}")
                measured[contender.name].append(await contender.measure(number))
                progress.advance(task)
        progress.update(task, description=f"{benchmark.name}: {rounds} rounds")
    with step(progress, f"{benchmark.name}: checking what was written"):
        faults = await benchmark.faults()
    return [_result(benchmark.name, figure, measured, faults) for figure in benchmark.figures]


def _result(
    benchmark: str, figure: Figure, measured: Mapping[str, Sequence[Measures]], faults: Sequence[str]
) -> Result:
    values = [measures[figure.unit] for measures in measured[figure.contender]]
    if figure.reference is None:
        return Result(benchmark, figure, len(values), Spread.of(values), None, None, faults)
    references = [measures[figure.unit] for measures in measured[figure.reference]]
    ratios = [value / reference for value, reference in zip(values, references, strict=True)]
    return Result(benchmark, figure, len(values), Spread.of(values), Spread.of(references), Spread.of(ratios), faults)


def show(results: Sequence[Result], *, console: Console) -> None:
    for benchmark in dict.fromkeys(result.benchmark for result in results):
        mine = [result for result in results if result.benchmark == benchmark]
        console.print(_table(benchmark, mine))
        for fault in mine[0].faults:
            console.print(f"[red]void:[/] {fault}")
        for failure in filter(None, (result.failure for result in mine)):
            console.print(f"[red]too slow:[/] {failure}", soft_wrap=True)


def _table(benchmark: str, results: Sequence[Result]) -> Table:
    table = Table(title=benchmark, title_justify="left", caption="median (lowest-highest over the rounds)")
    for heading in ("figure", "unit"):
        table.add_column(heading, no_wrap=True)
    for heading in ("value", "reference", "ratio"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("target", no_wrap=True)
    for result in results:
        figure = result.figure
        name = figure.name if figure.reference is None else f"{figure.name} / {figure.reference}"
        spreads = (result.value, result.reference_value, result.ratio)
        cells = ("[red]void[/]", "", "") if result.faults else map(_readable, spreads)
        table.add_row(name, figure.unit, *cells, figure.target or (f"≥ {figure.gate:g}" if figure.gate else ""))
    return table


def save(results: Sequence[Result], file: Path) -> None:
    """A void figure is saved without its value. Figures of benchmarks that did not run this time stay."""
    mine = {result.benchmark for result in results}
    before = json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
    rows = [row for row in before if row["name"].partition(": ")[0] not in mine]
    rows += [
        {
            "name": f"{result.benchmark}: {result.figure.name}",
            "value": None if result.faults else result.value.middle,
            "unit": result.figure.unit,
            "reference": result.figure.reference,
            "reference_value": _middle(None if result.faults else result.reference_value),
            "ratio": _middle(None if result.faults else result.ratio),
            "rounds": result.rounds,
        }
        for result in results
    ]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _middle(spread: Spread | None) -> float | None:
    return spread and spread.middle


def _readable(spread: Spread | None) -> str:
    if spread is None:
        return ""
    return f"{_number(spread.middle)} ({_number(spread.lowest)}-{_number(spread.highest)})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
