"""The channels' only speaker: closes and refunds that order-core asks for, made outside any transaction.

A crash anywhere leaves the errand open: its lease runs out and it is made again. That is safe because a close asks
first, and a refund keeps its number until its outcome is known.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, assert_never

import asyncpg
import orjson
import structlog

from orderloop import tracing
from orderloop.clock import Clock
from orderloop.errors import reason
from orderloop.events import (
    AnomalyRaised,
    CloseOutcome,
    CloseRequested,
    CloseResult,
    Event,
    RefundNotified,
    RefundRequested,
)
from orderloop.failpoints import failpoint

from . import channels, errand_store, evidence, metrics
from .channels import Question
from .errand_store import Errand, Kind
from .evidence import Found, Rule
from .gateways import Closed, Gateway, GatewayRefuses, GatewaySilent, Paid, Refund, RefundAsked, RefundState, Trade
from .pace import wait
from .store import Remembered
from .tell import news, tell

log = structlog.get_logger()

_LEASE = timedelta(seconds=90)  # longer than four calls with their repeated probes may take
_WORRYING = 8  # attempts: about eight minutes without an outcome


@dataclass(frozen=True, slots=True)
class _Word:
    """What one channel said to a close."""

    outcome: CloseOutcome
    channel: str
    evidence: dict[str, Any]
    trade: Trade | None = None


class Speaker:
    """Makes errands. Which are due, and how many at once, is the rounds' business."""

    def __init__(
        self, pool: asyncpg.Pool, gateways: Sequence[Gateway], *, rule: Rule, clock: Clock, time_factor: float
    ) -> None:
        self._pool = pool
        self._gateways = {gateway.name: gateway for gateway in gateways}
        self._rule = rule
        self._clock = clock
        self._time_factor = time_factor

    async def claim(self, most: int) -> list[Errand]:
        with tracing.quiet():
            async with self._pool.acquire() as conn, conn.transaction():
                return await errand_store.claim(conn, most=most, lease=_LEASE)

    async def make(self, errand: Errand) -> None:
        """Whatever fails here costs this errand its lease and the others nothing."""
        try:
            with tracing.span(
                f"channel {errand.kind}",
                order_no=errand.order_no,
                traceparent=errand.traceparent,
                attempt=errand.attempts,
            ):
                match errand.kind:
                    case Kind.CLOSE:
                        await self._close(errand, CloseRequested.decode(errand.request))
                    case Kind.REFUND:
                        await self._refund(errand, RefundRequested.decode(errand.request))
                    case Kind.REFUND_LOOK:
                        await self._look_at_refund(errand, Question(**orjson.loads(errand.request)))
                    case _:
                        assert_never(errand.kind)
        except Exception as error:
            log.error("errand not recorded, will be made again", errand=errand.key, error=reason(error))

    async def _close(self, errand: Errand, asked: CloseRequested) -> None:
        failpoint("payment_callback.before_close")
        if asked.channel is None:
            words = await asyncio.gather(*(self._close_at(one, errand.order_no) for one in self._gateways.values()))
        elif gateway := self._gateways.get(asked.channel):
            words = [await self._close_at(gateway, errand.order_no)]
        else:
            words = [_Word(CloseOutcome.UNKNOWN, asked.channel, {"because": "no access to this channel is configured"})]
        failpoint("payment_callback.after_close")
        word = _decisive(words)
        now = self._clock.now()
        result = CloseResult(
            order_no=errand.order_no, result=word.outcome, channel=word.channel, evidence=word.evidence
        )
        async with self._pool.acquire() as conn, conn.transaction():
            if word.outcome is CloseOutcome.UNKNOWN:
                await errand_store.postpone(conn, errand, wait(errand.attempts, time_factor=self._time_factor))
                await tell(conn, [self._news(errand, result, f"{errand.key}:unknown")])
            elif await errand_store.finish(conn, errand, word.outcome):
                if word.trade is not None and isinstance(word.trade.standing, Paid):
                    paid = word.trade.standing
                    if await evidence.report(conn, errand.order_no, paid, word.trade, self._rule, now) is Found.EARLY:
                        await errand_store.look_again(conn, errand.order_no, paid.paid_at + self._rule.grace)
                await tell(conn, [self._news(errand, result, f"{errand.key}:result")])
            failpoint("payment_callback.before_errand_commit")

    async def _close_at(self, gateway: Gateway, order_no: str) -> _Word:
        """Ask, close what is unpaid, and ask again: the second answer is the proof, and sees a payment in between."""
        try:
            with metrics.ASKED.labels(gateway.name, "close").time():
                trade = await gateway.look(order_no)
                if not isinstance(trade.standing, Paid | Closed):
                    try:
                        await gateway.close(order_no)
                    except GatewayRefuses as refusal:
                        log.info("channel refuses to close", order_no=order_no, channel=gateway.name, code=refusal.code)
                    trade = await gateway.look(order_no)
        except GatewaySilent as silence:
            return _Word(CloseOutcome.UNKNOWN, gateway.name, {"because": str(silence)})
        if isinstance(trade.standing, Paid):
            return _Word(CloseOutcome.PAID, gateway.name, evidence.evidence(trade.standing, trade), trade)
        if isinstance(trade.standing, Closed):
            return _Word(CloseOutcome.CLOSED, gateway.name, dict(trade.evidence), trade)
        return _Word(CloseOutcome.UNKNOWN, gateway.name, dict(trade.evidence) | {"because": "it stays unpaid"}, trade)

    async def _refund(self, errand: Errand, asked: RefundRequested) -> None:
        wish = RefundAsked(
            order_no=asked.order_no,
            transaction_id=asked.transaction_id,
            out_refund_no=asked.out_refund_no,
            refund_fen=asked.refund_fen,
            total_fen=asked.total_fen,
            reason=asked.reason,
        )
        try:
            gateway = self._gateway(asked.channel)
            with metrics.ASKED.labels(gateway.name, "refund").time():
                # Whoever comes after a lost answer asks first: it may have been done.
                refund = await gateway.look_at_refund(wish) if errand.attempts > 1 else Refund(RefundState.UNKNOWN)
                if refund.state is RefundState.UNKNOWN:
                    failpoint("payment_callback.before_refund")
                    refund = await gateway.refund(wish)
                    failpoint("payment_callback.after_refund")
        except GatewayRefuses as refusal:
            kind = "refund_refused"
            await self._worry(errand, wish, asked.channel, kind, refusal.code)
        except GatewaySilent as silence:
            kind = "refund_unanswered" if errand.attempts >= _WORRYING else None
            await self._worry(errand, wish, asked.channel, kind, str(silence))
        else:
            await self._hear_refund(errand, wish, asked.channel, refund)

    async def _look_at_refund(self, errand: Errand, asked: Question) -> None:
        wish = RefundAsked(asked.order_no, asked.transaction_id, asked.out_refund_no)
        try:
            gateway = self._gateway(asked.channel)
            with metrics.ASKED.labels(gateway.name, "refund_look").time():
                refund = await gateway.look_at_refund(wish)
        except GatewaySilent as silence:
            kind = "refund_unanswered" if errand.attempts >= _WORRYING else None
            await self._worry(errand, wish, asked.channel, kind, str(silence))
        else:
            await self._hear_refund(errand, wish, asked.channel, refund)

    async def _hear_refund(self, errand: Errand, wish: RefundAsked, channel: str, refund: Refund) -> None:
        if not refund.state.final:
            kind = "refund_unanswered" if errand.attempts >= _WORRYING * 2 else None
            await self._worry(errand, wish, channel, kind, refund.state)
            return
        event = RefundNotified(
            order_no=errand.order_no,
            channel=channel,
            transaction_id=wish.transaction_id,
            refund_id=refund.refund_id,
            out_refund_no=wish.out_refund_no,
            refund_status=refund.state,
            refund_fen=refund.refund_fen,
            total_fen=refund.total_fen,
            finished_at=refund.finished_at,
        )
        async with self._pool.acquire() as conn, conn.transaction():
            if await errand_store.finish(conn, errand, refund.state):
                await tell(conn, [self._news(errand, event, channels.refunded(event).event_id)])
            failpoint("payment_callback.before_errand_commit")

    async def _worry(self, errand: Errand, wish: RefundAsked, channel: str, kind: str | None, because: str) -> None:
        """No outcome yet: made again later under the same number, and shown to a person if that is called for."""
        log.info("refund without an outcome, will ask again", errand=errand.key, because=because)
        anomaly = AnomalyRaised(
            order_no=errand.order_no,
            kind=kind or "",
            evidence={
                "channel": channel,
                "transaction_id": wish.transaction_id,
                "out_refund_no": wish.out_refund_no,
                "because": because,
                "attempts": errand.attempts,
            },
            money_fen=wish.refund_fen or 0,
            raised_at=self._clock.now(),
        )
        async with self._pool.acquire() as conn, conn.transaction():
            await errand_store.postpone(conn, errand, wait(errand.attempts, time_factor=self._time_factor))
            if kind is not None:
                await tell(conn, [self._news(errand, anomaly, f"{errand.key}:{kind}")])

    def _gateway(self, channel: str) -> Gateway:
        if gateway := self._gateways.get(channel):
            return gateway
        raise GatewaySilent("no access to this channel is configured")

    def _news(self, errand: Errand, event: Event, event_id: str) -> Remembered:
        return news(event, event_id, self._clock.now(), tracing.current_traceparent() or errand.traceparent)


def _decisive(words: Sequence[_Word]) -> _Word:
    """One payment decides, then one doubt; closed is only what every channel calls closed."""
    for outcome in (CloseOutcome.PAID, CloseOutcome.UNKNOWN):
        for word in words:
            if word.outcome is outcome:
                return word
    if not words:
        return _Word(CloseOutcome.UNKNOWN, "", {"because": "no access to any channel is configured"})
    return _Word(CloseOutcome.CLOSED, words[0].channel, {"channels": [word.evidence for word in words]})
