"""Forgetting in time, and telling again what is still remembered."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import asyncpg
import structlog

from orderloop.postgres import Connection

from . import errand_store, metrics, store
from .tell import stage

log = structlog.get_logger()

# Deletions at once: short enough that nobody waits for their locks, and vacuum keeps up.
_MOST_FORGOTTEN = 5_000
_MOST_REPUBLISHED = 2_000


@dataclass(frozen=True, slots=True)
class Retention:
    """How long the log, the memory and finished errands last."""

    log: timedelta
    memory: timedelta  # 30 days or more: the database refuses less
    errands: timedelta  # the same

    async def enforce(self, pool: asyncpg.Pool) -> None:
        """Drop what is too old. Gives way to whoever reads: a day that is in use goes next time."""
        async with pool.acquire() as conn:
            try:
                while day := await store.drop_day(conn, self.log):
                    log.info("a day of the callback log is gone", partition=day)
            except asyncpg.LockNotAvailableError:
                log.info("the callback log is being read, its old days go later")
            await _forget(conn, "callbacks", store.forget, self.memory)
            await _forget(conn, "errands", errand_store.forget, self.errands)


async def _forget(
    conn: Connection, what: str, some_of: Callable[[Connection, timedelta, int], Awaitable[int]], keep: timedelta
) -> None:
    forgotten = 0
    while some := await some_of(conn, keep, _MOST_FORGOTTEN):
        forgotten += some
        metrics.FORGOTTEN.labels(what).inc(some)
        await asyncio.sleep(0)  # callbacks first
    if forgotten:
        log.info("forgotten", what=what, count=forgotten)


async def republish(pool: asyncpg.Pool, *, since: datetime, until: datetime) -> int:
    """Stage again every event that was told us in [since, until); returns how many.

    For a database that was restored to a moment before the consumers' committed offsets, or a topic that was lost.
    Consumers know the event ids: repeats change nothing, so a run that was broken off is simply run again.
    """
    count = 0
    after: tuple[datetime, str] | None = None
    while True:
        async with pool.acquire() as conn, conn.transaction():
            facts, after = await store.remembered(conn, since=since, until=until, after=after, most=_MOST_REPUBLISHED)
            if facts:
                await stage(conn, facts)
        count += len(facts)
        if after is None:
            return count
