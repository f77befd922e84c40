"""Callbacks that an open anomaly cites outlive payment-callback's log: they are held there until it is put away.

What is wanted is read from the desk and compared with what is held, again and again: nothing has to be remembered here,
and what failed is simply still missing the next time.
"""

from pathlib import Path
from typing import Any

import aiosql
import asyncpg
import httpx
import structlog

from orderloop.errors import reason

from . import metrics

log = structlog.get_logger()

_sql: Any = aiosql.from_path(Path(__file__).with_suffix(".sql"), "asyncpg")

_HOLDS = "/v1/callbacks/holds"
_OURS = "order-core: "  # how our reasons begin: what a person holds is that person's to release


async def keep_in_line(pool: asyncpg.Pool, payment_callback: httpx.AsyncClient) -> None:
    """Hold what open anomalies cite, release what none does any more.

    `payment_callback` has the service's address and the operator token. Raises httpx.HTTPError if it does not say what
    it holds; a single hold that fails is counted, and tried again with the next call.
    """
    async with pool.acquire() as conn:
        cited = {row["order_no"]: f"{_OURS}anomaly {row['id']}, {row['kind']}" async for row in _sql.cited(conn)}
    answer = await payment_callback.get(_HOLDS)
    held = {hold["order_no"]: hold["reason"] for hold in answer.raise_for_status().json()}
    ours = {order_no for order_no, why in held.items() if why.startswith(_OURS)}
    missing = sorted(cited.keys() - held.keys())
    placed = [await _ask(payment_callback, "PUT", order_no, {"reason": cited[order_no]}) for order_no in missing]
    metrics.CALLBACK_HOLDS_MISSING.set(placed.count(False))
    for order_no in sorted(ours - cited.keys()):
        await _ask(payment_callback, "DELETE", order_no)


async def _ask(payment_callback: httpx.AsyncClient, method: str, order_no: str, body: object = None) -> bool:
    try:
        answer = await payment_callback.request(method, f"{_HOLDS}/{order_no}", json=body)
        answer.raise_for_status()
    except httpx.HTTPError as error:
        metrics.CALLBACK_HOLD_ERRORS.inc()
        log.warning("callbacks not held or released, will be tried again", order_no=order_no, error=reason(error))
        return False
    return True
