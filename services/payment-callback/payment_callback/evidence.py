"""Payments that the channel knows of and no callback told us: looked for, shown, and never silently repaired.

A job that patches unpaid orders hides how many callbacks really fail. So what a query finds becomes an anomaly with the
channel's answer and an id of its own; the callback that comes after all is still news, and is applied. Whoever chooses
the policy `apply` has the payment published under its natural id; the failed callback stays counted either way.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

import asyncpg
import structlog

from orderloop import tracing
from orderloop.clock import Clock
from orderloop.errors import reason
from orderloop.events import AnomalyRaised, PaymentNotified
from orderloop.failpoints import failpoint
from orderloop.postgres import Connection

from . import channels, errand_store, metrics
from .errand_store import Awaited, Missing
from .gateways import Gateway, GatewaySilent, Paid, Trade
from .pace import Allowance, Plan, wait
from .tell import news, tell

log = structlog.get_logger()

_LEASE = timedelta(seconds=30)  # longer than one look at every channel may take


class Policy(StrEnum):
    REPORT = "report"  # a person applies it, or the callback does
    APPLY = "apply"


@dataclass(frozen=True, slots=True)
class Rule:
    """What to do with evidence."""

    policy: Policy
    grace: timedelta  # a callback may be this late before it counts as missing; real time, never compressed


class Found(StrEnum):
    KNOWN = "known"  # the callback has come
    EARLY = "early"  # paid a moment ago: the callback may be on its way
    MISSING = "missing"


async def report(  # noqa: PLR0917
    conn: Connection, order_no: str, paid: Paid, trade: Trade, rule: Rule, now: datetime
) -> Found:
    """Hold the channel's word against what we were told; what is missing is shown, and counted for ever."""
    channel = str(trade.evidence["channel"])
    event = PaymentNotified(
        order_no=order_no,
        channel=channel,
        mchid=paid.mchid,
        transaction_id=paid.transaction_id,
        trade_state="SUCCESS",
        amount_fen=paid.amount_fen,
        payer_total_fen=paid.payer_total_fen,
        currency=paid.currency,
        paid_at=paid.paid_at,
        source="repair",
    )
    natural = channels.paid(event)
    if await errand_store.is_remembered(conn, natural.event_id):
        return Found.KNOWN
    if paid.paid_at + rule.grace > now:
        return Found.EARLY
    shown = evidence(paid, trade) | {"policy": rule.policy}
    missing = Missing(channel, paid.transaction_id, order_no, paid.amount_fen, paid.paid_at, rule.policy, shown)
    if await errand_store.add_missing(conn, missing):
        trace = tracing.current_traceparent()
        anomaly = AnomalyRaised(
            order_no=order_no, kind="callback_missing", evidence=shown, money_fen=paid.amount_fen, raised_at=now
        )
        facts = [news(anomaly, f"{channel}:{paid.transaction_id}:{anomaly.kind}", now, trace)]
        if rule.policy is Policy.APPLY:
            facts.append(news(event, natural.event_id, paid.paid_at, trace))
        await tell(conn, facts)
        log.warning("paid at the channel, and no callback came", order_no=order_no, channel=channel, policy=rule.policy)
    return Found.MISSING


def evidence(paid: Paid, trade: Trade) -> dict[str, Any]:
    """The channel's word, and what we read in it: every field that the payment's own event would have."""
    return {
        **trade.evidence,
        "trade_state": "SUCCESS",
        "transaction_id": paid.transaction_id,
        "mchid": paid.mchid,
        "amount_fen": paid.amount_fen,
        "payer_total_fen": paid.payer_total_fen,
        "currency": paid.currency,
        "paid_at": paid.paid_at.isoformat(),
    }


class Lookout:
    """Asks the channels about orders that are pending, on a plan and never more often than it may."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        gateways: Sequence[Gateway],
        *,
        plan: Plan,
        rule: Rule,
        allowance: Allowance,
        clock: Clock,
        time_factor: float,
    ) -> None:
        self._pool = pool
        self._gateways = gateways
        self._plan = plan
        self._rule = rule
        self._allowance = allowance
        self._clock = clock
        self._time_factor = time_factor

    async def claim(self, most: int) -> list[Awaited]:
        allowed = self._allowance.take(most, self._clock.now())
        if not allowed:
            return []
        with tracing.quiet():
            async with self._pool.acquire() as conn, conn.transaction():
                return await errand_store.claim_looks(conn, most=allowed, lease=_LEASE)

    async def look(self, order: Awaited) -> None:
        """One look at every channel that could have been paid. After an error the lease runs out, and we look again."""
        try:
            with tracing.span("look for a payment", order_no=order.order_no, traceparent=order.traceparent):
                asked = [one for one in self._gateways if order.channel in {None, one.name}]
                words = await asyncio.gather(*(self._ask(gateway, order.order_no) for gateway in asked))
                failpoint("payment_callback.after_look")
                await self._record(order, [word for word in words if word is not None], silent=None in words)
        except Exception as error:
            log.error("look not recorded, will look again", order_no=order.order_no, error=reason(error))

    async def _ask(self, gateway: Gateway, order_no: str) -> Trade | None:
        try:
            with metrics.ASKED.labels(gateway.name, "look").time():
                return await gateway.look(order_no)
        except GatewaySilent as silence:
            log.info("channel silent, will look again", order_no=order_no, channel=gateway.name, because=str(silence))
            return None

    async def _record(self, order: Awaited, trades: Sequence[Trade], *, silent: bool) -> None:
        now = self._clock.now()
        planned = self._plan.after(order.pending_since, now)
        soon = now + wait(order.looks + 3, time_factor=self._time_factor)
        due_at: datetime | None = min(planned, soon) if silent else planned
        async with self._pool.acquire() as conn, conn.transaction():
            for trade in trades:
                if isinstance(trade.standing, Paid):
                    found = await report(conn, order.order_no, trade.standing, trade, self._rule, now)
                    # Once its fate is known there is nothing left to look for.
                    due_at = trade.standing.paid_at + self._rule.grace if found is Found.EARLY else None
            if due_at is None:
                await errand_store.await_no_more(conn, [order.order_no])
            else:
                await errand_store.look_again(conn, order.order_no, due_at)
            failpoint("payment_callback.before_look_commit")
