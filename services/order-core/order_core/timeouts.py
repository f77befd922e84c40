"""What time alone brings about."""

from datetime import date, datetime, timedelta

import asyncpg
import structlog

from orderloop.clock import Clock
from orderloop.failpoints import failpoint
from orderloop.postgres import Connection

from . import anomalies, parts, store, timers
from .apply import apply, with_parts
from .decide import decide
from .orders import Change, Incoming, Parked
from .timers import Patience, Timer

log = structlog.get_logger()

_MOST = 500  # one transaction's worth
_ACTOR = "/order-core"


async def fire(pool: asyncpg.Pool, clock: Clock, patience: Patience) -> int:
    """Do what is due, as if somebody had commanded it; returns how many orders were looked at.

    A timer of an order that has gone on is taken away and does nothing.
    """
    looked_at = 0
    while True:
        async with pool.acquire() as conn, conn.transaction():
            now = clock.now()
            due = await parts.due_orders(conn, now=now, most=_MOST)
            if due:
                await _fire(conn, due, now=now, patience=patience)
                failpoint("order-core.before_timers_commit")
        looked_at += len(due)
        if len(due) < _MOST:
            return looked_at


async def _fire(conn: Connection, due: list[str], *, now: datetime, patience: Patience) -> None:
    orders = await store.lock_orders(conn, due)
    commands = [_command(timer, now) for timer in await parts.take_timers(conn, orders, now=now)]
    orders = await with_parts(conn, orders, commands)
    # Of an order's timers at most one can still do something, so each may be judged by itself.
    possible = [c for c in commands if isinstance(decide(orders[c.order_no], c, taken={}), Change)]
    await apply(conn, possible, now=now, patience=patience)


def _command(timer: Timer, now: datetime) -> Incoming:
    name, body = timers.command(timer.kind)
    return Incoming(timer.order_no, timers.event_id(timer), name, _ACTOR, now, body)


async def give_up_waiting(pool: asyncpg.Pool, *, longest: timedelta) -> int:
    """Turn events whose predecessor never came into anomalies; returns how many."""
    async with pool.acquire() as conn, conn.transaction():
        late = await parts.overdue(conn, longest=longest, most=_MOST)
        keys = [event.key for event in late]
        await store.remember(conn, dict.fromkeys(keys, "parked"))
        await parts.stop_waiting(conn, keys)
        await anomalies.raise_(conn, [Parked(event, "predecessor_missing") for event in late])
    if late:
        log.warning("events waited in vain", count=len(late))
    return len(late)


async def prepare_months(pool: asyncpg.Pool, clock: Clock) -> None:
    """Have partitions for the months to come, so that no event ever waits for one."""
    today: date = clock.now().date()
    async with pool.acquire() as conn:
        await store.ensure_partitions(conn, first_month=today, last_month=today + timedelta(days=90))
