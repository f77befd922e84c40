"""What payment-callback reads from Kafka: what order-core wants of the channels, and which orders are pending."""

from collections.abc import Callable, Sequence

import asyncpg

from orderloop.clock import Clock
from orderloop.consume import Consumer, Received
from orderloop.events import CloseRequested, OrderChanged, RefundRequested
from orderloop.health import Check, Health
from orderloop.settings import KafkaSettings
from orderloop.topics import GROUPS

from . import errand_store
from .errand_store import Awaited, Errand
from .pace import Plan

GROUP = "payment-callback"

_PENDING = "pending"


class _Alive(Health):
    """Passes on that the consumer is alive, and keeps to itself whether Kafka is: callbacks are taken without it."""

    def __init__(self, health: Health) -> None:
        super().__init__()
        self._of = health

    def require(self, name: str, check: Check) -> None:
        pass

    def beat(self, task: str, *, within_seconds: float) -> None:
        self._of.beat(task, within_seconds=within_seconds)


def consumer(
    settings: KafkaSettings, *, pool: asyncpg.Pool, plan: Plan, clock: Clock, wake: Callable[[], None], health: Health
) -> Consumer:
    """`wake` is called when there is something new to ask a channel for."""

    async def handle(batch: Sequence[Received]) -> None:
        if await take_in(pool, batch, plan=plan, clock=clock):
            wake()

    return Consumer(settings, group=GROUP, topics=GROUPS[GROUP], handle=handle, pool=pool, health=_Alive(health))


async def take_in(pool: asyncpg.Pool, batch: Sequence[Received], *, plan: Plan, clock: Clock) -> bool:
    """The whole batch in one transaction. Whether there are new errands."""
    awaited: dict[str, Awaited] = {}
    settled: set[str] = set()
    errands: list[Errand] = []
    for one in batch:
        match one.event:
            case OrderChanged(from_=None, to=state) if state == _PENDING:
                awaited[one.order_no] = _awaited(one, one.event)
            case OrderChanged(from_=state) if state == _PENDING:
                settled.add(one.order_no)
            case OrderChanged():
                pass  # what becomes of a paid order is nobody's business here
            case CloseRequested() as event:
                errands.append(errand_store.close(event, one.event_id, one.envelope.time, one.traceparent))
            case RefundRequested() as event:
                errands.append(errand_store.refund(event, one.envelope.time, one.traceparent))
            case _:
                raise TypeError(f"{one.topic} carries nothing for us")
    waiting = [order for order_no, order in awaited.items() if order_no not in settled]
    async with pool.acquire() as conn, conn.transaction():
        if waiting:
            now = clock.now()
            await errand_store.await_payments(
                conn, [(order, plan.after(order.pending_since, now)) for order in waiting]
            )
        if settled:
            await errand_store.await_no_more(conn, settled)
        return bool(await errand_store.add(conn, errands))


def _awaited(one: Received, event: OrderChanged) -> Awaited:
    return Awaited(
        order_no=event.order_no,
        channel=event.channel,
        mchid=event.mchid,
        amount_fen=event.amount_fen,
        pending_since=event.at,
        traceparent=one.traceparent,
    )
