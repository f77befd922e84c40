"""What becomes of figures once they are measured."""

import json
from pathlib import Path

import pytest

from tests.bench import harness
from tests.bench.harness import Figure, Result, Spread


@pytest.mark.parametrize(
    ("ratio", "faults", "fails"),
    [(0.79, [], True), (0.8, [], False), (0.79, ["a row is missing"], False)],
    ids=["below", "at", "void"],
)
def test_a_median_below_its_gate_fails(ratio: float, faults: list[str], fails: bool) -> None:
    figure = Figure("ours", "events/s", "ours", "bare", gate=0.8)
    spread = Spread(ratio, 0.1, 1.9)

    assert bool(Result("stream", figure, 5, spread, spread, spread, faults).failure) is fails


def test_figures_of_benchmarks_that_did_not_run_stay(tmp_path: Path) -> None:
    def figure(benchmark: str, value: float) -> Result:
        return Result(benchmark, Figure("speed", "1/s", "speed"), 5, Spread.of([value]), None, None, [])

    file = tmp_path / "bench.json"
    harness.save([figure("one", 1), figure("two", 2)], file)
    harness.save([figure("two", 3)], file)

    saved = [(row["name"], row["value"]) for row in json.loads(file.read_text(encoding="utf-8"))]
    assert saved == [("one: speed", 1), ("two: speed", 3)]
