"""The callback benchmark runs, and its checker is no ornament. How fast anything is, no test says."""

from pathlib import Path

import asyncpg
import pytest

from orderloop_lab.home import Home
from orderloop_lab.progress import steps
from orderloop_lab.simulators.wechat_keys import open_keys
from tests.bench import callbacks, harness
from tests.support.databases import Databases

pytestmark = pytest.mark.usefixtures("durable")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callbacks, "WARM_UP", 10)
    monkeypatch.setattr(callbacks, "CONNECTIONS", 8)


async def test_every_contender_stores_what_it_acknowledges(databases: Databases, session_home: Home) -> None:
    scale = callbacks.Scale(notices=50)
    async with callbacks.benchmark(scale, databases=databases, home=session_home) as benchmark:
        results = await harness.run(benchmark, rounds=1, progress=steps(quiet=True))

    assert [(result.figure, result.faults) for result in results] == [(figure, []) for figure in callbacks.FIGURES]


async def test_an_acknowledged_notice_that_is_not_stored_makes_a_figure_void(
    databases: Databases, session_home: Home, tmp_path: Path
) -> None:
    keys = open_keys(tmp_path)
    found: list[list[str]] = []
    async with callbacks.open_desk(callbacks.SERVICE, databases=databases, home=session_home, keys=keys) as desk:
        await desk.take(10)
        found.append(await desk.faults())
        admin = await asyncpg.connect(desk.database.admin_url)
        try:
            for table in ("callback_log", "callback_memory", "outbox"):
                await admin.execute(f"delete from {table} where ctid = (select min(ctid) from {table})")  # noqa: S608
                found.append(await desk.faults())
        finally:
            await admin.close()

    missing = [
        f"payment_callback: 1 acknowledged notices are not in {table} exactly once"
        for table in ("callback_log", "callback_memory", "outbox")
    ]
    assert found == [missing[:count] for count in range(4)]
