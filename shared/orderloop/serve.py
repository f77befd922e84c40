"""The life of a process: start, run until told to stop or until something essential dies, drain, go."""

import asyncio
import dataclasses
import gc
import resource
import signal
import socket
from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import structlog
import uvicorn
from starlette.types import ASGIApp

from . import metrics
from .connection import Patience, protocol
from .errors import reason
from .settings import HttpSettings

log = structlog.get_logger()

# Runs until the event is set. Returning earlier, or raising, ends the process: half a service is no service.
Task = Callable[[asyncio.Event], Coroutine[Any, Any, None]]

_DRAIN_SECONDS = 10
_CANCEL_SECONDS = 5  # for a cancelled task to close what it holds


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: the process has one place that stops it."""

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


async def serve(
    app: ASGIApp, settings: HttpSettings, *, tasks: Mapping[str, Task], patience: Patience | None = None
) -> None:
    """Answer HTTP and run the tasks until SIGTERM or SIGINT; then drain for at most 10 s.

    The socket's own address is the client's: who trusts a proxy's X-Forwarded-For decides so by itself.

    Raises what a task raised, so that the process ends with an error and is started anew; OSError when the port is
    taken, before any task has started.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        listening = socket.create_server((settings.host, settings.port), family=family, backlog=2048)
    except OSError as error:
        raise OSError(error.errno, f"cannot listen on {settings.host}:{settings.port}: {error.strerror}") from None
    server = _Server(
        uvicorn.Config(
            app,
            lifespan="off",
            http=protocol(_affordable(patience or Patience())),
            proxy_headers=False,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=_DRAIN_SECONDS,
        )
    )

    async def http(stop: asyncio.Event) -> None:
        serving = asyncio.create_task(server.serve([listening]))
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        server.should_exit = True
        await serving

    with listening:
        await run({"http": http, **tasks})


def _affordable(patience: Patience) -> Patience:
    """As many connections as there are file descriptors, less those that the database, Kafka and logs need."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed == resource.RLIM_INFINITY:
        return patience
    return dataclasses.replace(patience, connections=min(patience.connections, max(allowed - 200, allowed // 2)))


@contextmanager
def seldom_collecting() -> Generator[None]:
    """A batch makes thousands of objects that die with it, and none of them in a cycle.

    Python looks for cycles after every 700 by itself; that was a quarter of what an event costs.
    """
    usual = gc.get_threshold()
    gc.collect()
    gc.freeze()  # what was imported stays for as long as the process
    gc.set_threshold(50_000, 20, 20)
    try:
        yield
    finally:
        gc.set_threshold(*usual)
        gc.unfreeze()


async def run(tasks: Mapping[str, Task]) -> None:
    """Run tasks until a signal comes or one of them ends; then let the others finish."""
    with seldom_collecting():
        await _run(tasks)


async def _run(tasks: Mapping[str, Task]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    running = {asyncio.create_task(task(stop), name=name) for name, task in tasks.items()}
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({*running, stopping}, return_when=asyncio.FIRST_COMPLETED)
    asked = stop.is_set()
    stop.set()
    await stopping
    ended = sorted(task.get_name() for task in running if task.done())
    _, late = await asyncio.wait(running, timeout=_DRAIN_SECONDS)
    for task in late:
        log.warning("task did not drain in time", task=task.get_name())
        task.cancel()
    done, _ = await asyncio.wait(running, timeout=_CANCEL_SECONDS)
    failures = [(task, task.exception()) for task in done if not task.cancelled()]
    for task, failure in failures:
        if failure is not None:
            log.critical("task failed", task=task.get_name(), exc_info=failure)
    for _, failure in failures:
        if failure is not None:
            raise failure
    if not asked:
        raise RuntimeError(f"{', '.join(ended)} ended although nobody asked for it")


def periodic(name: str, job: Callable[[], Awaitable[object]], *, seconds: float) -> Task:
    """A task that runs `job` again and again. A run that fails is logged, counted and repeated."""

    async def repeat(stop: asyncio.Event) -> None:
        while not stop.is_set():
            try:
                await job()
            except Exception as error:
                metrics.TASK_ERRORS.labels(name).inc()
                log.warning("job failed, will run again", task=name, error=reason(error))
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), seconds)

    return repeat
