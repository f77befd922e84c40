"""The benchmarks run, and their checker is no ornament. How fast anything is, no test says."""

from collections.abc import Callable
from pathlib import Path

import asyncpg
import pytest

from orderloop_lab.progress import steps
from tests.bench import harness, orders, write_path
from tests.support.databases import Database, Databases

pytestmark = pytest.mark.usefixtures("durable")

SCALE = write_path.Scale(rounds=1, batches=1, existing=0, seed=1)


@pytest.mark.parametrize("workload", [write_path.PAYMENTS, write_path.LIVES], ids=lambda workload: workload.name)
async def test_every_contender_leaves_whole_books(
    workload: write_path.Workload, databases: Databases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write_path, "BATCH", 50)
    async with write_path.benchmark(workload, SCALE, databases=databases, folder=tmp_path) as benchmark:
        results = await harness.run(benchmark, rounds=1, progress=steps(quiet=True))

    assert [(result.figure, result.faults) for result in results] == [(figure, []) for figure in workload.figures]


async def test_books_with_a_page_torn_out_make_a_figure_void(database: Callable[[str], Database]) -> None:
    url = database("order_core").admin_url
    admin = await asyncpg.connect(url)
    try:
        await orders.reserve(admin, 10, seed=1)
        whole = await write_path.violations(url)
        await admin.execute("delete from order_log where ctid = (select min(ctid) from order_log)")
        torn = await write_path.violations(url)
    finally:
        await admin.close()

    assert whole == []
    assert {fault[:2] for fault in torn} >= {"I1", "I3"}
