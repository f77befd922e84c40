"""Liveness and readiness that mean something.

Alive: the event loop turns and every long-running task has beaten lately. Ready: what the service cannot work without
answers now.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable

import asyncpg

_PATIENCE_SECONDS = 3  # a part that answers later than this is not there; probes wait no longer either

Check = Callable[[], Awaitable[None]]  # raises when the part is not there


class Health:
    def __init__(self) -> None:
        self._checks: dict[str, Check] = {}
        self._beats: dict[str, tuple[float, float]] = {}  # task -> (last beat, longest silence in seconds)

    def require(self, name: str, check: Check) -> None:
        """Readiness needs `check` to pass; it raises when it does not."""
        self._checks[name] = check

    def beat(self, task: str, *, within_seconds: float) -> None:
        """The task is alive, and will say so again within so many seconds."""
        self._beats[task] = (time.monotonic(), within_seconds)

    def alive(self) -> dict[str, str]:
        """Per task: "ok" or how long it has been silent."""
        now = time.monotonic()
        return {
            task: "ok" if now - last <= longest else f"silent for {now - last:.0f} s"
            for task, (last, longest) in self._beats.items()
        }

    async def ready(self) -> dict[str, str]:
        """Per part: "ok" or why not."""
        answers: dict[str, str] = {}
        for name, check in self._checks.items():
            try:
                async with asyncio.timeout(_PATIENCE_SECONDS):
                    await check()
                answers[name] = "ok"
            except Exception as error:  # any reason is a reason not to be ready
                answers[name] = f"{type(error).__name__}: {error}"[:200]
        return answers


def postgres(pool: asyncpg.Pool) -> Check:
    async def answers() -> None:
        async with pool.acquire(timeout=2) as conn:
            await conn.fetchval("select 1")

    return answers
