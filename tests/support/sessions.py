"""One test session: its home folder, and a way to run coroutines from fixtures that have no event loop."""

import asyncio
import os
import tempfile
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import psutil
from filelock import FileLock

from orderloop_lab.home import Home
from orderloop_lab.processes import Supervisor

T = TypeVar("T")

FOLDER = Path(tempfile.gettempdir()) / f"orderloop-tests-{os.getuid()}"


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """In a thread, because the calling test may have an event loop of its own that is running already."""
    outcome: list[T] = []
    failure: list[BaseException] = []

    def target() -> None:
        try:
            outcome.append(asyncio.run(coroutine))
        except BaseException as error:  # handed to the caller below
            failure.append(error)

    thread = threading.Thread(target=target)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return outcome[0]


def new_home(purpose: str = "shared") -> Home:
    """A folder of this session; what sessions left behind that were killed is stopped and removed first."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with FileLock(FOLDER / "lock"):  # the session's workers come here at the same time
        for folder in FOLDER.glob("*-*"):
            if not psutil.pid_exists(int(folder.name.partition("-")[0])):
                remove(Home(folder))
    return Home(FOLDER / f"{os.getpid()}-{purpose}")


def remove(home: Home) -> None:
    run(Supervisor(home).stop_all())
    home.remove()
