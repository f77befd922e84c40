"""Storing callbacks in micro-batches: whatever has queued up while one transaction ran goes into the next.

One commit per callback costs a flush to disk each; here thousands a second share a few hundred commits, and a lone
callback waits for nobody.
"""

import asyncio
import contextvars
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import asyncpg
import structlog

from orderloop import tracing
from orderloop.errors import Transient, is_transient

from . import errand_store, metrics, store
from .attempt import Attempt, Verdict
from .errand_store import Errand
from .store import Remembered
from .tell import stage

log = structlog.get_logger()

# More rows hardly save more commits, and all of a batch wait for its slowest row.
_MOST_PER_BATCH = 200
# Two seconds of work at the target rate: who queues behind more than that misses the deadline anyway.
_MOST_WAITING = 6000
# Later than this nobody waits any more; a connection that swallows answers must not hold up those behind it.
_COMMIT_SECONDS = 2.5
_MOST_LINKS = 128  # OpenTelemetry's own limit per span


@dataclass(frozen=True, slots=True)
class _Waiting:
    attempt: Attempt
    facts: tuple[Remembered, ...]
    done: asyncio.Future[Verdict]


class Writer:
    """Belongs to one event loop. Needs no task of its own: it works while there is something to store."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self._queue: deque[_Waiting] = deque()
        self._work: asyncio.Task[None] | None = None

    async def store(self, attempt: Attempt) -> Verdict:
        """Returns once it is committed. Raises what PostgreSQL raised, or Transient when too many are waiting."""
        if len(self._queue) >= _MOST_WAITING:
            raise Transient("too many callbacks are waiting to be stored")
        waiting = _Waiting(attempt, _remembered(attempt), asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        if self._work is None or self._work.done():
            # an empty context: the batch belongs to no single request, nor do its spans
            self._work = asyncio.create_task(self._drain(), context=contextvars.Context())
        return await waiting.done

    async def _drain(self) -> None:
        while self._queue:
            batch: list[_Waiting] = []
            while self._queue and len(batch) < _MOST_PER_BATCH:
                waiting = self._queue.popleft()
                if not waiting.done.done():  # the deadline has passed; the channel will tell us again
                    batch.append(waiting)
            if batch:
                await self._settle(batch)

    async def _settle(self, batch: Sequence[_Waiting]) -> None:
        first = batch[0].attempt
        try:
            # the spans of the statements stand below the first callback's trace; the others are linked to it
            with tracing.span("store callbacks", order_no=first.order_no, traceparent=first.traceparent) as running:
                for waiting in batch[1:_MOST_LINKS]:
                    if waiting.attempt.span is not None:
                        running.add_link(waiting.attempt.span)
                verdicts = await self._commit(batch)
        except Exception as error:  # whatever it was, it belongs to those who wait
            if len(batch) > 1 and not is_transient(error):
                log.warning("a batch of callbacks was refused, storing them one by one", error=repr(error))
                for waiting in batch:
                    await self._settle([waiting])
                return
            for waiting in batch:
                if not waiting.done.done():
                    waiting.done.set_exception(error)
            return
        metrics.BATCH.observe(len(batch))
        for waiting, verdict in zip(batch, verdicts, strict=True):
            if not waiting.done.done():
                waiting.done.set_result(verdict)

    async def _commit(self, batch: Sequence[_Waiting]) -> list[Verdict]:
        """Log, memory and outbox move together."""
        async with (
            asyncio.timeout(_COMMIT_SECONDS),
            self._pool.acquire(timeout=_COMMIT_SECONDS) as conn,
            conn.transaction(),
        ):
            facts = [fact for waiting in batch for fact in waiting.facts]
            new = await store.remember(conn, facts) if facts else set[str]()
            asked = await errand_store.add(conn, [one for waiting in batch for one in _errands(waiting.attempt)])
            verdicts: list[Verdict] = []
            staged: list[Remembered] = []
            for waiting in batch:
                fresh: list[Remembered] = []
                for fact in waiting.facts:
                    if fact.event_id in new:
                        new.remove(fact.event_id)  # a second copy in this batch is a repeat
                        fresh.append(fact)
                staged += fresh
                questions = {one.identity for one in _errands(waiting.attempt)}
                verdicts.append(_verdict(waiting, new=bool(fresh or questions & asked)))
                asked -= questions
            if staged:
                await stage(conn, staged)
            await store.log(
                conn, [(waiting.attempt, verdict) for waiting, verdict in zip(batch, verdicts, strict=True)]
            )
        return verdicts


def _verdict(waiting: _Waiting, *, new: bool) -> Verdict:
    notice = waiting.attempt.notice
    if notice is None:
        return Verdict.REFUSED
    if new:
        return Verdict.ACCEPTED
    return Verdict.DUPLICATE if notice.facts or notice.questions else Verdict.NOTED


def _errands(attempt: Attempt) -> list[Errand]:
    if attempt.notice is None or not attempt.notice.questions:
        return []
    now = datetime.now(UTC)
    return [errand_store.refund_look(question, now, attempt.traceparent) for question in attempt.notice.questions]


def _remembered(attempt: Attempt) -> tuple[Remembered, ...]:
    if attempt.notice is None:
        return ()
    return tuple(
        Remembered(
            fact.event_id,
            fact.event.order_no,
            fact.event.TOPIC,
            fact.occurred_at or datetime.now(UTC),
            traceparent,
            fact.body,
        )
        for fact, traceparent in zip(attempt.notice.facts, attempt.traceparents, strict=True)
    )
