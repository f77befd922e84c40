import asyncio
import signal
from pathlib import Path

import asyncpg
import pytest

from orderloop_lab.backing import POSTGRES, postgres, provide
from orderloop_lab.home import ROOT_FOLDER, Home
from orderloop_lab.processes import Supervisor
from orderloop_lab.progress import steps
from tests.support.homes import own_home

QUIET = steps(quiet=True)


async def _query(url: str, sql: str) -> object:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()


async def test_committed_rows_outlive_a_kill_and_the_port_stays(tmp_path: Path) -> None:
    async with own_home(tmp_path / "lab") as (home, supervisor):
        url = await postgres.start(home, supervisor, QUIET)
        await _query(url, "CREATE TABLE kept AS SELECT 7 AS id")
        await supervisor.kill(postgres.NAME)
        assert not supervisor.running(postgres.NAME)
        await supervisor.restart(postgres.NAME)
        assert await _query(url, "SELECT id FROM kept") == 7


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGQUIT])
async def test_it_comes_back_after_a_clean_and_after_an_immediate_stop(tmp_path: Path, signal_number: int) -> None:
    async with own_home(tmp_path / "lab") as (home, supervisor):
        url = await postgres.start(home, supervisor, QUIET)
        await supervisor.kill(postgres.NAME, signal_number)
        assert await supervisor.wait_until_ended(postgres.NAME)
        assert await postgres.start(home, supervisor, QUIET) == url
        assert await _query(url, "SELECT 1") == 1


async def test_two_labs_do_not_touch_each_other(tmp_path: Path) -> None:
    async with own_home(tmp_path / "one") as one, own_home(tmp_path / "two") as two:
        urls = await asyncio.gather(*(postgres.start(home, supervisor, QUIET) for home, supervisor in (one, two)))
        await _query(urls[0], "CREATE TABLE mine (id int)")
        assert await _query(urls[1], "SELECT to_regclass('mine')") is None
        await one[1].stop_all()
        assert await _query(urls[1], "SELECT 1") == 1


async def test_the_environment_names_a_server_that_runs_already(tmp_path: Path) -> None:
    home = Home(tmp_path / "lab")
    supervisor = Supervisor(home)
    named = await provide(POSTGRES, home, supervisor, QUIET, {POSTGRES: "postgresql://admin@elsewhere/postgres"})
    assert named == "postgresql://admin@elsewhere/postgres"
    assert supervisor.status() == []


async def test_a_removed_lab_leaves_nothing_outside_its_folder(tmp_path: Path) -> None:
    async with own_home(tmp_path / "lab") as (home, supervisor):
        await postgres.start(home, supervisor, QUIET)
        lab_id = home.id
    assert not (ROOT_FOLDER / lab_id).exists()
    assert not (tmp_path / "lab").exists()


async def test_initdb_that_was_killed_in_the_middle_is_begun_anew(tmp_path: Path) -> None:
    async with own_home(tmp_path / "lab") as (home, supervisor):
        half = home.folder / f"{postgres.NAME}.unfinished" / "base"
        half.mkdir(parents=True)
        url = await postgres.start(home, supervisor, QUIET)
        assert await _query(url, "SHOW server_version_num")
