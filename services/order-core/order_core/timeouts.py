"""What time alone brings about."""

from datetime import date, timedelta

import asyncpg
import structlog

from orderloop.clock import Clock

from . import store
from .orders import Parked

log = structlog.get_logger()

_MOST = 500  # one transaction's worth


async def give_up_waiting(pool: asyncpg.Pool, *, longest: timedelta) -> int:
    """Turn events whose predecessor never came into anomalies; returns how many."""
    async with pool.acquire() as conn, conn.transaction():
        late = await store.overdue(conn, longest=longest, most=_MOST)
        keys = [event.key for event in late]
        await store.remember(conn, dict.fromkeys(keys, "parked"))
        await store.stop_waiting(conn, keys)
        await store.raise_anomalies(conn, [Parked(event, "predecessor_missing") for event in late])
    if late:
        log.warning("events waited in vain", count=len(late))
    return len(late)


async def prepare_months(pool: asyncpg.Pool, clock: Clock) -> None:
    """Have partitions for the months to come, so that no event ever waits for one."""
    today: date = clock.now().date()
    async with pool.acquire() as conn:
        await store.ensure_partitions(conn, first_month=today, last_month=today + timedelta(days=90))
