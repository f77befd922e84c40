"""The supervisor: starts processes that outlive the command that started them, and never signals a stranger.

Every process works in a folder of its own, and is known by its pid *and* that folder: a pid that the system has given
to somebody else is not ours, however the clock was set in between. Whoever still works in the folder without being
recorded was left behind by a lab that was killed, or is an orphan of a killed parent, and is cleaned away before the
next start.
"""

import asyncio
import dataclasses
import json
import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from orderloop_lab.errors import LabError
from orderloop_lab.home import Home
from orderloop_lab.readiness import answers

STOP_SECONDS = 10.0
POLL_SECONDS = 0.05

_OUR_SETTINGS = ("ORDERLOOP_", "SIM_", "FAILPOINT")

# Children of this very process: only their parent can reap them, so they are kept until they have ended.
_children: dict[int, subprocess.Popen[bytes]] = {}
_exit_codes: dict[int, int] = {}  # of those that have; negative for a signal


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    name: str
    argv: tuple[str, ...]
    folder: str  # working directory, used by nothing else
    url: str  # answers once the process is ready, see orderloop_lab.readiness; "" for one that serves nothing
    layer: int = 0  # a process stands on those of lower layers and is stopped before them
    env: Mapping[str, str] = dataclasses.field(default_factory=dict[str, str])
    account: str | None = None  # run as another account than root
    stop_signal: int = signal.SIGTERM
    stale: tuple[str, ...] = ()  # files in `folder` that a killed predecessor leaves and a start refuses
    ready_seconds: float = 30.0


@dataclasses.dataclass(frozen=True, slots=True)
class Status:
    name: str
    state: str  # running | stopped (on request) | dead (by itself, or killed)
    pid: int | None
    url: str
    memory_mib: int
    log: str


@dataclasses.dataclass(frozen=True, slots=True)
class _Record:
    command: Command
    pid: int | None  # None: stopped on request

    def process(self) -> psutil.Process | None:
        if self.pid is None:
            return None
        _reap()
        try:
            process = psutil.Process(self.pid)
            # A child keeps its pid until it is reaped, which is when all its threads are gone and its ports free.
            return process if self.pid in _children or process.cwd() == self.command.folder else None
        except psutil.Error:  # gone, a zombie, or somebody else's
            return None


class Supervisor:
    def __init__(self, home: Home) -> None:
        self._home = home

    def running(self, name: str) -> bool:
        record = self._record(name)
        return record is not None and record.process() is not None

    def log(self, name: str) -> Path:
        return self._home.log / f"{name}.log"

    def status(self) -> list[Status]:
        """Every process this lab has ever started, by name."""
        names = sorted(file.stem for file in self._home.run.glob("*.json"))
        return [self._status(record) for name in names if (record := self._record(name))]

    def command(self, name: str) -> Command:
        """What a process that runs was started with. Raises LabError when it does not run."""
        record = self._record(name)
        if record is None or record.process() is None:
            raise LabError(f"The lab is not up, {name} does not run: `make up` starts it.")
        return record.command

    async def start(self, command: Command) -> None:
        """Returns when the process is ready. One that already runs with the same command is left alone."""
        record = self._record(command.name)
        if record is not None and record.process() is not None:
            if record.command == command:
                await self._wait_until_ready(record)
                return
            await self.stop(command.name)
        await self._start_afresh(command, {})

    async def stop(self, name: str) -> None:
        """Asks the process to end, insists after STOP_SECONDS."""
        record = self._known(name)
        process = record.process()
        if process is not None:
            _signal(process, record.command.stop_signal)
            _signal(process, signal.SIGCONT)  # a frozen process would not hear the request
            if not await _ended(record, STOP_SECONDS):
                _signal(process, signal.SIGKILL)
                await _ended(record, STOP_SECONDS)
        _sweep(record.command.folder)
        self._write(dataclasses.replace(record, pid=None))

    async def kill(self, name: str, signal_number: int = signal.SIGKILL) -> None:
        """Sends a signal and, where it is a deadly one, returns when the process is gone."""
        record = self._known(name)
        process = record.process()
        if process is None:
            raise LabError(f"{name} is not running: start it with `python -m orderloop_lab up`.")
        _signal(process, signal_number)
        if signal_number == signal.SIGKILL:
            await _ended(record, STOP_SECONDS)

    async def restart(self, name: str, env: Mapping[str, str] | None = None) -> None:
        """Stops what still runs and starts the same command, with `env` on top for this run (a failpoint, say)."""
        command = self._known(name).command
        await self.stop(name)
        await self._start_afresh(command, env or {})

    async def wait_until_ready(self, name: str) -> None:
        await self._wait_until_ready(self._known(name))

    async def wait_until_ended(self, name: str, seconds: float = STOP_SECONDS) -> bool:
        """False if it still runs after `seconds`: for processes that are expected to kill themselves."""
        return await _ended(self._known(name), seconds)

    async def stop_all(self) -> None:
        """The uppermost layer first."""
        records = [record for file in self._home.run.glob("*.json") if (record := self._record(file.stem))]
        for layer in sorted({record.command.layer for record in records}, reverse=True):
            here = [record.command.name for record in records if record.command.layer == layer]
            await asyncio.gather(*(self.stop(name) for name in here))

    async def _start_afresh(self, command: Command, extra_env: Mapping[str, str]) -> None:
        _sweep(command.folder)
        for stale in command.stale:
            (Path(command.folder) / stale).unlink(missing_ok=True)
        await self._wait_until_ready(self._spawn(command, extra_env))

    def _spawn(self, command: Command, extra_env: Mapping[str, str]) -> _Record:
        folder = Path(command.folder)
        folder.mkdir(parents=True, exist_ok=True)
        # What the person's shell says about some other installation must not leak in.
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(_OUR_SETTINGS)}
        with self.log(command.name).open("ab") as log:
            try:
                child = subprocess.Popen(
                    command.argv,
                    cwd=folder,
                    env={**inherited, **command.env, **extra_env},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # Ctrl-C in the terminal is meant for the command, not for the lab
                    user=command.account,
                    group=command.account,
                    extra_groups=None if command.account is None else [],
                )
            except OSError as error:
                raise LabError(f"Cannot start {command.name} ({error}): is {command.argv[0]} installed?") from error
        _children[child.pid] = child
        record = _Record(command, child.pid)
        self._write(record)
        return record

    async def _wait_until_ready(self, record: _Record) -> None:
        command = record.command
        deadline = time.monotonic() + command.ready_seconds
        while command.url and not await answers(command.url):
            if record.process() is None:
                how = f" ({_exit_codes[record.pid]})" if record.pid in _exit_codes else ""
                raise LabError(f"{command.name} ended while starting{how}: {self._last_words(command.name)}")
            if time.monotonic() > deadline:
                raise LabError(
                    f"{command.name} does not answer at {_without_password(command.url)} "
                    f"after {command.ready_seconds:.0f} s: {self._last_words(command.name)}"
                )
            await asyncio.sleep(POLL_SECONDS)

    def _last_words(self, name: str) -> str:
        with self.log(name).open(encoding="utf-8", errors="replace") as log:
            lines = deque((line.strip() for line in log if line.strip()), maxlen=3)
        return f"{' / '.join(lines) or 'it said nothing'} (see {self.log(name)})"

    def _known(self, name: str) -> _Record:
        record = self._record(name)
        if record is None:
            raise LabError(f"This lab has never started {name}: `python -m orderloop_lab status` lists what it knows.")
        return record

    def _record(self, name: str) -> _Record | None:
        file = self._home.run / f"{name}.json"
        if not file.exists():
            return None
        stored = json.loads(file.read_text(encoding="utf-8"))
        fields = stored["command"]
        fields["argv"], fields["stale"] = tuple(fields["argv"]), tuple(fields["stale"])
        return _Record(Command(**fields), stored["pid"])

    def _write(self, record: _Record) -> None:
        file = self._home.run / f"{record.command.name}.json"
        draft = file.with_suffix(".draft")
        draft.touch(mode=0o600)  # the environment holds passwords
        draft.write_text(json.dumps(dataclasses.asdict(record)), encoding="utf-8")
        draft.replace(file)

    def _status(self, record: _Record) -> Status:
        process = record.process()
        name = record.command.name
        return Status(
            name=name,
            state="running" if process else "stopped" if record.pid is None else "dead",
            pid=process.pid if process else None,
            url=_without_password(record.command.url),
            memory_mib=_memory(process) >> 20 if process else 0,
            log=str(self.log(name)),
        )


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _signal(process: psutil.Process, number: int) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return


async def _ended(record: _Record, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while record.process() is not None:
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(POLL_SECONDS)
    return True


def _sweep(folder: str) -> None:
    leftovers = [process for process in psutil.process_iter(["cwd"]) if process.info["cwd"] == folder]
    for process in leftovers:
        _signal(process, signal.SIGKILL)
    psutil.wait_procs(leftovers, timeout=STOP_SECONDS)
    _reap()


def _reap() -> None:
    """Let go of the children that have ended."""
    for pid, code in [(pid, code) for pid, child in _children.items() if (code := child.poll()) is not None]:
        del _children[pid]
        _exit_codes[pid] = code


def _memory(process: psutil.Process) -> int:
    """Bytes in memory, children included, shared pages counted once where the system can tell (PostgreSQL!)."""
    total = 0
    for member in (process, *process.children(recursive=True)):
        try:
            full = member.memory_full_info()
        except psutil.Error:
            continue
        total += getattr(full, "pss", full.rss)
    return total
