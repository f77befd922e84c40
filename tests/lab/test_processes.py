import asyncio
import json
import signal
import sys
from pathlib import Path

import psutil
import pytest

from orderloop_lab.errors import LabError
from orderloop_lab.home import Home
from orderloop_lab.processes import Command
from tests.support.homes import own_home
from tests.support.kafka import until

SLEEPER = "import time; time.sleep(600)"


def sleeper(home: Home, code: str = SLEEPER, **more: object) -> Command:
    fields = {"name": "sleeper", "folder": str(home.folder / "sleeper"), "url": "", **more}
    return Command(argv=(sys.executable, "-c", code), **fields)  # type: ignore[arg-type]


def at_work_in(folder: Path) -> list[psutil.Process]:
    return [process for process in psutil.process_iter(["cwd"]) if process.info["cwd"] == str(folder)]


async def test_a_process_goes_through_running_dead_and_stopped(tmp_path: Path) -> None:
    async with own_home(tmp_path / "lab") as (home, supervisor):
        await supervisor.start(sleeper(home))
        assert [process.state for process in supervisor.status()] == ["running"]
        # it is a process before it is an interpreter with memory of its own
        await until(lambda: supervisor.status()[0].memory_mib > 0, seconds=10)
        await supervisor.kill("sleeper")
        [dead] = supervisor.status()
        assert (dead.state, dead.pid) == ("dead", None)
        await supervisor.restart("sleeper")
        await supervisor.stop("sleeper")
        assert [process.state for process in supervisor.status()] == ["stopped"]


async def test_starting_it_twice_starts_it_once_and_a_changed_command_replaces_it(tmp_path: Path) -> None:
    async with own_home(tmp_path / "lab") as (home, supervisor):
        await supervisor.start(sleeper(home))
        first = supervisor.status()[0].pid
        await supervisor.start(sleeper(home))
        assert supervisor.status()[0].pid == first
        await supervisor.start(sleeper(home, env={"COLOUR": "blue"}))
        assert supervisor.status()[0].pid != first
        assert len(at_work_in(home.folder / "sleeper")) == 1


async def test_what_a_restart_adds_to_the_environment_holds_for_that_run_only(tmp_path: Path) -> None:
    async with own_home(tmp_path / "lab") as (home, supervisor):
        await supervisor.start(sleeper(home))
        for env, expected in (({"FAILPOINT": "commit:kill@1"}, True), ({}, False)):
            await supervisor.restart("sleeper", env)
            [process] = at_work_in(home.folder / "sleeper")
            assert ("FAILPOINT" in process.environ()) is expected


async def test_settings_of_the_persons_shell_do_not_leak_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORDERLOOP_POSTGRES_URL", "postgresql://production")
    async with own_home(tmp_path / "lab") as (home, supervisor):
        await supervisor.start(sleeper(home))
        [process] = at_work_in(home.folder / "sleeper")
        assert not [name for name in process.environ() if name.startswith("ORDERLOOP_")]


async def test_a_frozen_process_and_one_that_ignores_sigterm_are_stopped_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orderloop_lab.processes.STOP_SECONDS", 0.5)
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);" + SLEEPER
    async with own_home(tmp_path / "lab") as (home, supervisor):
        for code in (SLEEPER, deaf):
            await supervisor.start(sleeper(home, code))
            await supervisor.kill("sleeper", signal.SIGSTOP)
            await supervisor.stop("sleeper")
            assert at_work_in(home.folder / "sleeper") == []


async def test_a_pid_that_now_belongs_to_somebody_else_is_left_alone(tmp_path: Path) -> None:
    async with own_home(tmp_path / "lab") as (home, supervisor):
        await supervisor.start(sleeper(home))
        await supervisor.kill("sleeper")
        stranger = await asyncio.create_subprocess_exec(sys.executable, "-c", SLEEPER)
        try:
            record = home.run / "sleeper.json"
            stored = json.loads(record.read_text())
            record.write_text(json.dumps(stored | {"pid": stranger.pid}))
            assert not supervisor.running("sleeper")
            await supervisor.stop("sleeper")
            assert stranger.returncode is None
        finally:
            stranger.kill()
            await stranger.wait()


async def test_a_lab_that_was_killed_is_taken_over_by_the_next(tmp_path: Path) -> None:
    """Also what it had no time to record any more, and the children that a killed parent left behind."""
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {SLEEPER!r}])"
    killed_lab = f"""
import asyncio, os, signal, sys
from pathlib import Path
from orderloop_lab.home import Home
from orderloop_lab.processes import Command, Supervisor
home = Home(Path(sys.argv[1]))
for name, code in (("sleeper", {SLEEPER!r}), ("parent", {parent!r})):
    command = Command(name=name, argv=(sys.executable, "-c", code), folder=str(home.folder / name), url="")
    asyncio.run(Supervisor(home).start(command))
os.kill(os.getpid(), signal.SIGKILL)
"""
    async with own_home(tmp_path / "lab") as (home, supervisor):
        lab = await asyncio.create_subprocess_exec(sys.executable, "-c", killed_lab, str(home.folder))
        assert await lab.wait() == -signal.SIGKILL
        assert {process.state for process in supervisor.status()} == {"running"}
        (home.run / "sleeper.json").unlink()
        [unrecorded] = at_work_in(home.folder / "sleeper")
        await supervisor.start(sleeper(home))
        assert not unrecorded.is_running() or unrecorded.status() == psutil.STATUS_ZOMBIE
        async with asyncio.timeout(10):
            while len(at_work_in(home.folder / "parent")) < 2:  # noqa: ASYNC110 # only the system can tell
                await asyncio.sleep(0.01)
        await supervisor.kill("parent")
        await supervisor.restart("parent")
        await supervisor.stop_all()
        assert at_work_in(home.folder / "parent") == []


async def test_a_process_that_ends_while_starting_is_told_with_its_last_words(tmp_path: Path) -> None:
    async with own_home(tmp_path / "lab") as (home, supervisor):
        with pytest.raises(LabError, match=r"sleeper ended while starting \(1\): .*no room.*sleeper\.log"):
            await supervisor.start(sleeper(home, "raise SystemExit('no room')", url="http://127.0.0.1:9/livez"))


async def test_a_process_that_never_answers_is_given_up(tmp_path: Path) -> None:
    async with own_home(tmp_path / "lab") as (home, supervisor):
        with pytest.raises(LabError, match=r"does not answer at http://127\.0\.0\.1:9/livez after 0 s"):
            await supervisor.start(sleeper(home, url="http://127.0.0.1:9/livez", ready_seconds=0.2))


async def test_an_unknown_name_is_one_sentence(tmp_path: Path) -> None:
    async with own_home(tmp_path / "lab") as (_, supervisor):
        with pytest.raises(LabError, match="never started nobody"):
            await supervisor.kill("nobody")


async def test_records_with_passwords_are_private(tmp_path: Path) -> None:
    async with own_home(tmp_path / "lab") as (home, supervisor):
        await supervisor.start(sleeper(home))
        assert (home.run / "sleeper.json").stat().st_mode & 0o077 == 0
        assert home.run.stat().st_mode & 0o077 == 0
