"""The benchmarks on a real broker run, and their checkers are no ornament. How fast anything is, no test says."""

import pytest

from orderloop_lab.home import Home
from orderloop_lab.progress import steps
from tests.bench import harness, relay
from tests.support.databases import Databases

pytestmark = pytest.mark.usefixtures("durable")


@pytest.fixture(autouse=True)
def _known(monkeypatch: pytest.MonkeyPatch, kafka_bootstrap: str) -> None:
    monkeypatch.setenv("ORDERLOOP_KAFKA_BOOTSTRAP", kafka_bootstrap)


async def test_the_relay_publishes_all_that_was_staged_and_a_row_that_never_was_makes_the_figures_void(
    databases: Databases, session_home: Home
) -> None:
    async with relay.benchmark(relay.Scale(0.4, 1000), databases=databases, home=session_home) as benchmark:
        results = await harness.run(benchmark, rounds=1, progress=steps(quiet=True))
        contest = benchmark.contenders[2].measure.__self__  # type: ignore[attr-defined]
        contest.versions[next(iter(contest.versions))] += 1
        torn = await benchmark.faults()

    assert [(result.figure, result.faults) for result in results] == [(figure, []) for figure in relay.FIGURES]
    assert torn[0].startswith("lost: ")
