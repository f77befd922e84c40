"""How each trouble befalls a scene: which processes there are, and what is done to them when."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, assert_never

from orderloop_lab.backing import kafka, postgres
from orderloop_lab.errors import LabError
from orderloop_lab.processes import Supervisor

from .crash_plan import CORE, Fault, Trouble
from .crash_scene import SESSION_SECONDS, Replica, Scene
from .cutting import proxy

_LOOK_SECONDS = 0.02
_READY_SECONDS = 60.0
_BEYOND_SECONDS = SESSION_SECONDS + 1.0
_BY_VISITS = frozenset({Trouble.KILL, Trouble.FREEZE, Trouble.CUT_AFTER, Trouble.CUT_BEFORE})


@dataclass(slots=True)
class Blow:
    counts_visits: bool  # it falls at the nth visit of a place, which the load has to bring about
    prepared: asyncio.Event = field(default_factory=asyncio.Event)  # every process is started
    due: asyncio.Event = field(default_factory=asyncio.Event)  # for those that fall at a chunk
    over: bool = False  # what was to happen has happened, and who was hurt is back
    failed: bool = False  # it will never be over


@asynccontextmanager
async def strike(place: Scene, fault: Fault, supervisor: Supervisor | None) -> AsyncGenerator[Blow]:
    """Start what the scene needs, and let the blow fall while the block runs. `supervisor`: of what it stands on."""
    blow = Blow(fault.trouble in _BY_VISITS)
    falling = asyncio.create_task(_watched(_fall(place, fault, blow, supervisor), blow))
    prepared = asyncio.create_task(blow.prepared.wait())
    try:
        await asyncio.wait({falling, prepared}, return_when=asyncio.FIRST_COMPLETED)
        yield blow
    except LabError as error:
        if falling.done() and (cause := falling.exception()) is not None:
            raise cause from error  # why the block waited in vain
        raise
    finally:
        prepared.cancel()
        falling.cancel()
        await asyncio.wait({falling})
    if not falling.cancelled():
        falling.result()


async def _watched(falling: Coroutine[Any, Any, None], blow: Blow) -> None:
    try:
        await falling
    except Exception:
        blow.failed = True
        raise


def _fall(place: Scene, fault: Fault, blow: Blow, supervisor: Supervisor | None) -> Coroutine[Any, Any, None]:
    match fault.trouble:
        case Trouble.KILL:
            return _kill(place, fault, blow)
        case Trouble.FREEZE:
            return _freeze(place, fault, blow)
        case Trouble.REBALANCE:
            return _rebalance(place, blow)
        case Trouble.REPLICAS:
            return _replicas(place, blow)
        case Trouble.CUT_AFTER | Trouble.CUT_BEFORE:
            return _cut(place, fault, blow)
        case Trouble.POSTGRES | Trouble.BROKER:
            if supervisor is None:
                raise LabError(f"{fault.trouble}: only where the campaign has started it itself.")
            return _away(place, fault, blow, supervisor)
        case _:
            assert_never(fault.trouble)


async def _kill(place: Scene, fault: Fault, blow: Blow) -> None:
    """It dies by its own hand, as a kill from outside would take it at that very instruction."""
    planned = f"{fault.failpoint}:kill@{fault.nth}"
    core = await place.core(failpoint=planned if fault.failpoint in CORE else "")
    relay = await place.relay(failpoint="" if fault.failpoint in CORE else planned)
    victim = core if fault.failpoint in CORE else relay
    blow.prepared.set()
    status = await victim.child.ended()
    await place.again(victim)
    blow.over = status == -signal.SIGKILL


async def _freeze(place: Scene, fault: Fault, blow: Blow) -> None:
    frozen = await place.core(0, failpoint=f"order-core.after_lock:stop@{fault.nth}", static=False)
    await place.core(1, static=False)
    await place.relay()
    blow.prepared.set()
    await _come(frozen.child.stopped)
    await _thaw(place, frozen, since=time.monotonic())
    blow.over = True


async def _thaw(place: Scene, frozen: Replica, *, since: float) -> None:
    """Once its session is over and others have done its work: it must find out, and do no harm."""
    await asyncio.sleep(since + _BEYOND_SECONDS - time.monotonic())  # the fault itself
    told = dict(place.ends)  # as repeats go on, there may be no moment at which everything is taken in

    async def forgotten() -> bool:
        return await place.taken_in(told)

    if not await place.until(forgotten, seconds=_READY_SECONDS):
        raise LabError("nobody took over the work of a frozen replica")
    os.kill(frozen.child.pid, signal.SIGCONT)
    await _until_ready(place, frozen)


async def _come(condition: Callable[[], bool]) -> None:
    """However long that takes: who waits for the blow has a patience of its own."""
    while not condition():  # noqa: ASYNC110 # there is nobody who could set an event
        await asyncio.sleep(_LOOK_SECONDS)


async def _until_ready(place: Scene, *replicas: Replica) -> None:
    for replica in replicas:
        if not await place.until(lambda replica=replica: place.ready(replica), seconds=_READY_SECONDS):
            raise LabError(f"{replica.name} was not ready after {_READY_SECONDS:.0f} s")


async def _rebalance(place: Scene, blow: Blow) -> None:
    stays = await place.core(0, static=False)
    await place.relay()
    blow.prepared.set()
    await blow.due.wait()
    await _until_ready(place, stays)
    comes = await place.core(1, static=False)
    await _until_ready(place, comes)
    await comes.child.end(signal.SIGTERM)
    await _until_ready(place, stays, await place.core(2, static=False))
    blow.over = True


async def _replicas(place: Scene, blow: Blow) -> None:
    replicas = [await place.core(number, static=False) for number in range(3)]
    await place.relay()
    blow.prepared.set()
    await blow.due.wait()
    await _until_ready(place, *replicas)
    _, killed, frozen = replicas
    await killed.child.end()
    os.kill(frozen.child.pid, signal.SIGSTOP)
    await _thaw(place, frozen, since=time.monotonic())
    blow.over = True


async def _cut(place: Scene, fault: Fault, blow: Blow) -> None:
    carried_out = fault.trouble is Trouble.CUT_AFTER
    async with proxy(place.database_url, nth=fault.nth, carried_out=carried_out) as way:
        await place.core(postgres_url=way.url)
        await place.relay()
        blow.prepared.set()
        await _come(lambda: way.has_cut)
        blow.over = True
        await asyncio.Event().wait()  # the way stays open until the scene ends


async def _away(place: Scene, fault: Fault, blow: Blow, supervisor: Supervisor) -> None:
    name, number = (
        (postgres.NAME, signal.SIGQUIT)  # `stop -m immediate`
        if fault.trouble is Trouble.POSTGRES
        else (kafka.NAME, signal.SIGKILL)
    )
    await place.core()
    await place.relay()
    blow.prepared.set()
    await blow.due.wait()
    await supervisor.kill(name, number)
    await supervisor.wait_until_ended(name)
    await asyncio.sleep(fault.away_seconds)  # the fault itself
    await supervisor.restart(name)
    for replica in place.replicas:
        if await replica.child.status() is not None:
            raise LabError(f"{replica.name} ended while {name} was away")
    blow.over = True
