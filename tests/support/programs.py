"""`python -m …` as a process of its own, at the price of a fork.

One parent per session imports what every program needs, and each program begins as a fork of it. Everything else is as
in a shell: pid, environment, sockets, exit status; a kill takes it at once. What is shared is the second of imports,
which several hundred starts in one suite would spend again and again.
"""

import multiprocessing
import os
import runpy
import subprocess
import sys
from collections.abc import Mapping
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from orderloop import failpoints

_SERVICES = ("order_core", "payment_callback", "logistics_poller", "settlement")
_PEERS = ("wechat", "alipay", "kuaidi100", "zto", "wms", "bank", "waf")

_parent = multiprocessing.get_context("forkserver")
_parent.set_forkserver_preload(
    [*(f"{service}.app" for service in _SERVICES), *(f"orderloop_lab.simulators.{peer}" for peer in _PEERS)]
)


class Program:
    """Runs from its construction on; what a test needs of subprocess.Popen, under the same names."""

    def __init__(self, module: str, *arguments: str, env: Mapping[str, str], output: Path | None = None) -> None:
        """`env`: the whole environment of the program; `output`: where it writes, else where the common parent does."""
        self._name = f"python -m {module}"
        self._process: ForkServerProcess = _parent.Process(
            target=_become, args=(module, arguments, dict(env), output), daemon=True
        )
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        """None while it runs; otherwise its exit status, negative for a signal."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Raises subprocess.TimeoutExpired after so many seconds."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(self._name, timeout or 0)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self._process.kill()

    def terminate(self) -> None:
        self._process.terminate()


def _become(module: str, arguments: tuple[str, ...], env: Mapping[str, str], output: Path | None) -> None:
    if output is not None:
        file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(file, 1)
        os.dup2(file, 2)
    os.environ.clear()
    os.environ.update(env)
    failpoints.arm(env.get("FAILPOINT", ""))
    sys.argv = [module, *arguments]
    sys.modules.pop(module, None)  # imported by the parent under its name, and now to run as the main one
    runpy.run_module(module, run_name="__main__", alter_sys=True)
