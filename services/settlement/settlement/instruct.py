"""Paying: a call to the bank is written down, made outside any transaction, and its answer recorded.

A crash between any two of these leaves a settlement that is `sending` or `processing`. It is asked about, and sent
again only under its own reference and only when the bank says that it has never seen it.
"""

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import assert_never

import asyncpg
import structlog

from orderloop import outbox, tracing
from orderloop.clock import Clock
from orderloop.errors import is_transient
from orderloop.events import AnomalyRaised, SettlementResult, SettlementStatus
from orderloop.failpoints import failpoint
from orderloop.health import Health
from orderloop.postgres import Connection

from . import metrics, store
from .answers import Answer, NotFound, Told, Unknown
from .banks import Bank
from .states import FINAL, Status, Step, Verdict, decide, hear, query_delay
from .store import Call, Held

log = structlog.get_logger()

_LOOK_SECONDS = 1.0  # how long something due may lie there when nobody woke the worker
_PUBLISHED = {
    Status.PROCESSING: SettlementStatus.PROCESSING,
    Status.SUCCESS: SettlementStatus.SUCCESS,
    Status.FAILED: SettlementStatus.FAILED,
}


@dataclass(frozen=True, slots=True)
class Pace:
    lease: timedelta  # how long a caller may be silent before somebody else asks; longer than a call may take
    first_query: timedelta
    longest_query: timedelta
    resend_within: timedelta
    calls_at_once: int


class Instructor:
    """Makes the calls that are due. Any number of processes may; a row is leased to one of them at a time."""

    def __init__(
        self, pool: asyncpg.Pool, bank: Bank, *, accounts: Mapping[str, str], clock: Clock, pace: Pace, health: Health
    ) -> None:
        """`accounts` says where each receiver's money goes when an attempt is made anew."""
        self._pool = pool
        self._bank = bank
        self._accounts = accounts
        self._clock = clock
        self._pace = pace
        self._health = health
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """There is something new to send."""
        self._wake.set()

    async def run(self, stop: asyncio.Event) -> None:
        calls: set[asyncio.Task[None]] = set()
        while not stop.is_set():
            self._health.beat("instructor", within_seconds=60)
            self._wake.clear()
            free = self._pace.calls_at_once - len(calls)
            claimed: list[Call] = []
            if free:
                try:
                    claimed = await self._claim(free)
                except Exception as error:
                    if not is_transient(error):
                        raise
                    log.warning("nothing can be claimed for the moment", error=repr(error))
            calls |= {asyncio.create_task(self._settle(call)) for call in claimed}
            if not claimed or len(claimed) == free:
                await self._pause(calls)
            calls = {call for call in calls if not call.done()}
        if calls:  # what is cut off here was written down before, and will be asked about
            await asyncio.wait(calls)

    async def settle_due(self) -> int:
        """Make every call that is due now, once; returns how many."""
        claimed = await self._claim(self._pace.calls_at_once)
        await asyncio.gather(*(self._settle(call) for call in claimed))
        return len(claimed)

    async def _claim(self, most: int) -> list[Call]:
        with tracing.quiet():
            async with self._pool.acquire() as conn, conn.transaction():
                return await store.claim_due(conn, most=most, lease=self._pace.lease)

    async def _pause(self, calls: set[asyncio.Task[None]]) -> None:
        woken = asyncio.create_task(self._wake.wait())
        await asyncio.wait({woken, *calls}, timeout=_LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        woken.cancel()
        with suppress(asyncio.CancelledError):
            await woken

    async def _settle(self, call: Call) -> None:
        """Make one call and record what it brought. After an error the lease runs out, and then the bank is asked."""
        try:
            with tracing.span(f"bank {call.step}", order_no=call.order_no, traceparent=call.traceparent) as span:
                answer = await self._call(call)
                span.set_attribute("bank.heard", hear(answer))
                await self._record(call, answer)
        except Exception as error:
            log.error("call not recorded, will be asked about", order_no=call.order_no, error=repr(error))

    async def _call(self, call: Call) -> Answer:
        async with self._pool.acquire() as conn:
            instruction = await store.instruction(conn, call)
        started = time.monotonic()
        match call.step:
            case Step.SEND:
                failpoint("settlement.before_bank_call")
                answer = await self._bank.instruct(instruction, on_sent=lambda: failpoint("settlement.after_send"))
            case Step.ASK:
                answer = await self._bank.ask(instruction)
            case _:
                assert_never(call.step)
        metrics.BANK_SECONDS.labels(call.step, hear(answer)).observe(time.monotonic() - started)
        return answer

    async def _record(self, call: Call, answer: Answer) -> None:
        key = call.order_no, call.instruction_id
        now, heard = self._clock.now(), hear(answer)
        async with self._pool.acquire() as conn, conn.transaction():
            held = await store.lock_settlement(conn, key)
            await store.answered(conn, call, heard, _reason(answer))
            if held.attempt != call.attempt:
                return  # a straggler of an attempt that is over; its line in bank_call remains
            verdict = decide(held.standing, heard, now=now, resend_within=self._pace.resend_within)
            if isinstance(answer, Told):
                await store.record_payouts(conn, call, answer.payouts)
            if _says_something(held, verdict):
                await store.record_settlement(
                    conn,
                    key,
                    status=verdict.status,
                    bank_code=answer.bank_code if isinstance(answer, Told) else None,
                    reason=_reason(answer),
                    taken=isinstance(answer, Told),
                    success_at=_arrival(answer) if verdict.status is Status.SUCCESS else None,
                )
            await self._set_timer(conn, key, verdict)
            if verdict.status is Status.REQUESTED:
                await store.next_attempt(conn, key, self._accounts)
            if verdict.status is Status.FAILED:
                await store.retry(conn, [key])  # if the wish was there before this answer
            await outbox.stage(conn, _news(call, held, answer, verdict, now))
            failpoint("settlement.after_answer")
        if _is_news(held, verdict):
            metrics.RESULTS.labels(verdict.status).inc()
        log.info(
            "bank answered", order_no=call.order_no, instruction_id=call.instruction_id, step=call.step, heard=heard,
            status=verdict.status, reason=_reason(answer), anomaly=verdict.anomaly,
        )  # fmt: skip

    async def _set_timer(self, conn: Connection, key: store.Key, verdict: Verdict) -> None:
        match verdict.next_step:
            case None:
                await store.stop_timer(conn, key)
            case Step.SEND:
                wait = timedelta() if verdict.status is Status.REQUESTED else self._pace.first_query
                await store.set_timer(conn, key, Step.SEND, due_in=wait)
            case Step.ASK:
                delay = query_delay(
                    await store.asked(conn, key), first=self._pace.first_query, longest=self._pace.longest_query
                )
                await store.set_timer(conn, key, Step.ASK, due_in=delay)
            case _:
                assert_never(verdict.next_step)


def _says_something(held: Held, verdict: Verdict) -> bool:
    """Whether the answer may write the settlement's row: what is final is left alone, unless the status moves."""
    return held.standing.status not in FINAL or verdict.status is not held.standing.status


def _is_news(held: Held, verdict: Verdict) -> bool:
    return verdict.status is not held.standing.status and verdict.status in _PUBLISHED


def _news(call: Call, held: Held, answer: Answer, verdict: Verdict, now: datetime) -> list[outbox.Staged]:
    """What the world is to hear: a change of status, and what a person should look at."""
    traceparent = tracing.current_traceparent() or call.traceparent
    attempt = f"{call.instruction_id}:{call.attempt}"
    staged: list[outbox.Staged] = []
    if _is_news(held, verdict):
        result = SettlementResult(
            order_no=call.order_no,
            instruction_id=call.instruction_id,
            attempt=call.attempt,
            status=_PUBLISHED[verdict.status],
            bank_code=answer.bank_code if isinstance(answer, Told) else "",
            amount_fen=held.amount_fen,
            arrived_at=_arrival(answer) if verdict.status is Status.SUCCESS else None,
            reason=_reason(answer),
        )
        staged.append(outbox.Staged(result, f"{attempt}:{result.status}", now, traceparent))
    if verdict.anomaly is not None:
        anomaly = AnomalyRaised(
            order_no=call.order_no,
            kind=verdict.anomaly,
            evidence={"instruction_id": call.instruction_id, "attempt": call.attempt, "heard": hear(answer)},
            money_fen=held.amount_fen,
            raised_at=now,
        )
        staged.append(outbox.Staged(anomaly, f"{attempt}:{verdict.anomaly}", now, traceparent))
    return staged


def _arrival(answer: Answer) -> datetime | None:
    """When the last of the money arrived, by the bank's word."""
    if not isinstance(answer, Told):
        return None
    return max((payout.arrived_at for payout in answer.payouts if payout.arrived_at is not None), default=None)


def _reason(answer: Answer) -> str | None:
    """Why it is not (or not yet) a success, in the bank's words or ours."""
    match answer:
        case Told(payouts=payouts):
            refused = [f"{payout.receiver}: {payout.reason}" for payout in payouts if payout.reason is not None]
            return "; ".join(refused) or None
        case NotFound():
            return "not_found"
        case Unknown(reason=reason):
            return reason
        case _:
            assert_never(answer)
