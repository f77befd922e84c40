"""Work that lies in the database until it is due: leased in small lots, done many at once, none waiting for others."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Generic, TypeVar

import structlog

from orderloop.errors import is_transient, reason
from orderloop.health import Health

log = structlog.get_logger()

_LOOK_SECONDS = 1.0  # how long something due may lie there when nobody woke the worker

Work = TypeVar("Work")


class Rounds(Generic[Work]):
    """Any number of processes may run the same rounds: what one has claimed is leased to it."""

    def __init__(
        self,
        name: str,
        *,
        claim: Callable[[int], Awaitable[Sequence[Work]]],
        do: Callable[[Work], Awaitable[None]],
        at_once: int,
        health: Health,
    ) -> None:
        """`claim` takes how many may be claimed; `do` must not raise."""
        self._name = name
        self._claim = claim
        self._do = do
        self._at_once = at_once
        self._health = health
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """There is something new."""
        self._wake.set()

    async def run(self, stop: asyncio.Event) -> None:
        running: set[asyncio.Task[None]] = set()
        while not stop.is_set():
            self._health.beat(self._name, within_seconds=60)
            self._wake.clear()
            free = self._at_once - len(running)
            claimed = await self._claimed(free) if free else ()
            running |= {asyncio.ensure_future(self._do(one)) for one in claimed}
            if len(claimed) < free or not free:
                await self._pause(running)
            running = {task for task in running if not task.done()}
        if running:  # what is cut off here keeps its lease, and is done again when that ends
            await asyncio.wait(running)

    async def run_due(self) -> int:
        """Do everything that is due now, once; returns how much that was."""
        claimed = await self._claim(self._at_once)
        await asyncio.gather(*(self._do(one) for one in claimed))
        return len(claimed)

    async def _claimed(self, most: int) -> Sequence[Work]:
        try:
            return await self._claim(most)
        except Exception as error:
            if not is_transient(error):
                raise
            log.warning("nothing can be claimed for the moment", task=self._name, error=reason(error))
            return ()

    async def _pause(self, running: set[asyncio.Task[None]]) -> None:
        woken = asyncio.create_task(self._wake.wait())
        await asyncio.wait({woken, *running}, timeout=_LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        woken.cancel()
        with suppress(asyncio.CancelledError):
            await woken
