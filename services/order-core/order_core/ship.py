"""Shipping an order once: a lock as a shield, the database's uniqueness as the truth (SHIP-1)."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from uuid import uuid4

import asyncpg
import structlog
from msgspec import json
from redis.asyncio import Redis

from orderloop.errors import REDIS_AWAY
from orderloop.events import Decision, Item, Receiver
from orderloop.problem import Problem

from . import history
from .commands import Answer, Request, execute
from .orders import Order, Ship

log = structlog.get_logger()

_LOCK_SECONDS = 30

# Deletes the lock only while it is ours: after an expiry it may be somebody else's.
_RELEASE = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) else return 0 end"


async def ship(pool: asyncpg.Pool, redis: Redis, request: Request, *, decision: Decision, now: datetime) -> Answer:
    """Accept one ship request. Raises Problem as `execute` does, and 409 while another one holds the lock."""
    async with _locked(redis, request.order_no), pool.acquire() as conn:
        row = await history.order_by_number(conn, request.order_no)
        if row is None:
            raise Problem(404, "unknown-order", "No order has this number.")
        body = Ship(
            shipment_id=f"{request.order_no}_S1",
            decision=decision,
            items=json.decode(row["items"], type=tuple[Item, ...]),
            receiver=json.decode(row["receiver"], type=Receiver),
        )

        def answer(order: Order) -> dict[str, object]:
            return {"order_no": order.order_no, "shipment_id": body.shipment_id, "status": order.status}

        return await execute(conn, request, event_id=f"{body.shipment_id}:accepted", body=body, told=answer, now=now)


@asynccontextmanager
async def _locked(redis: Redis, order_no: str) -> AsyncGenerator[None]:
    """Hold lock:ship:{order_no}, if Redis is there: losing it costs some waiting, never a parcel."""
    key, token = f"lock:ship:{order_no}", uuid4().hex
    try:
        mine = await redis.set(key, token, nx=True, ex=_LOCK_SECONDS)
    except REDIS_AWAY as error:
        log.warning("shipping without the lock, the database decides", order_no=order_no, error=repr(error))
        yield
        return
    if not mine:
        raise Problem(409, "still-running", "Another ship request for this order is running. Try again shortly.")
    try:
        yield
    finally:
        with suppress(*REDIS_AWAY):  # it expires by itself
            await redis.eval(_RELEASE, 1, key, token)
