"""Processes of order-core at the price of a fork: one parent imports everything, and each child becomes a process.

They are as real as any other: pids, sockets and clients of their own, and SIGKILL takes all of it. Only the second of
imports is shared, without which a campaign of hundreds of kills would spend its time importing.

    async with nursery() as start:
        child = await start(("serve",), env, log)

`main` is the parent. It takes one JSON object a line:
{"argv", "env", "log"} answers a pid; {"ended": pid} answers its exit status, negative for a signal, or null. At the
end of its input its children are killed.
"""

import asyncio
import importlib
import json
import os
import signal
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, cast

import psutil

from orderloop_lab.errors import LabError

_OURS = ("ORDERLOOP_", "FAILPOINT")
_LOOK_SECONDS = 0.01
_END_SECONDS = 10.0

Start = Callable[[Sequence[str], Mapping[str, str], Path], Awaitable["Child"]]
_Ask = Callable[[Mapping[str, Any]], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Child:
    pid: int
    _ask: _Ask

    async def status(self) -> int | None:
        """None while it runs; otherwise the exit status, negative for a signal."""
        return await self._ask({"ended": self.pid})

    def stopped(self) -> bool:
        """Whether it stands still, as after SIGSTOP."""
        return psutil.Process(self.pid).status() == psutil.STATUS_STOPPED

    async def ended(self) -> int:
        """Wait for its end, however long that takes."""
        while (status := await self.status()) is None:  # noqa: ASYNC110 # only its parent is told, and only when it asks
            await asyncio.sleep(_LOOK_SECONDS)
        return status

    async def end(self, number: int = signal.SIGKILL) -> None:
        """Send a signal that it dies of, and wait for that."""
        if await self.status() is None:
            os.kill(self.pid, number)
        try:
            await asyncio.wait_for(self.ended(), _END_SECONDS)
        except TimeoutError:
            os.kill(self.pid, signal.SIGKILL)
            await self.ended()


@asynccontextmanager
async def nursery() -> AsyncGenerator[Start]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", "from orderloop_lab.campaigns.nursery import main; main()"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    to, back = cast("asyncio.StreamWriter", process.stdin), cast("asyncio.StreamReader", process.stdout)
    turn = asyncio.Lock()

    async def ask(question: Mapping[str, Any]) -> Any:
        async with turn:
            to.write(json.dumps(question).encode() + b"\n")
            answer = await back.readline()
        if not answer:
            raise LabError("The processes' parent is gone: its error stands above.")
        return json.loads(answer)

    async def start(argv: Sequence[str], env: Mapping[str, str], log: Path) -> Child:
        return Child(await ask({"argv": argv, "env": dict(env), "log": str(log)}), ask)

    try:
        yield start
    finally:
        to.close()
        await process.wait()


def main() -> None:
    importlib.import_module("order_core.app")

    children: dict[int, int | None] = {}
    for line in sys.stdin:
        asked = json.loads(line)
        if "ended" in asked:
            answer = _status(children, asked["ended"])
        else:
            answer = os.fork()
            if answer == 0:
                _become(**asked)
            children[answer] = None
        print(json.dumps(answer), flush=True)
    for pid in children:
        if _status(children, pid) is None:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _status(children: dict[int, int | None], pid: int) -> int | None:
    if children[pid] is None:
        ended, status = os.waitpid(pid, os.WNOHANG)
        children[pid] = os.waitstatus_to_exitcode(status) if ended else None
    return children[pid]


def _become(argv: Sequence[str], env: Mapping[str, str], log: str) -> NoReturn:
    """As if started from a shell with that environment."""
    from order_core.__main__ import app  # noqa: PLC0415 # see main
    from orderloop import failpoints  # noqa: PLC0415

    status: int | str | None = 1
    try:
        for target, flags in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
            path = log if target else os.devnull
            os.dup2(os.open(path, flags | (os.O_CREAT | os.O_APPEND if target else 0), 0o600), target)
        for name in [name for name in os.environ if name.startswith(_OURS)]:
            del os.environ[name]
        os.environ.update(env)
        failpoints.arm(env.get("FAILPOINT", ""))
        app(list(argv), prog_name="order-core")
    except SystemExit as ended:
        status = ended.code
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status if isinstance(status, int) else int(status is not None))
