"""What settlement reads from Kafka."""

from collections.abc import Callable, Sequence

import asyncpg

from orderloop.consume import Consumer, Received
from orderloop.events import SettlementRequested
from orderloop.health import Health
from orderloop.settings import KafkaSettings
from orderloop.topics import GROUPS

from .requests import take_in
from .split import SplitRule
from .store import Request

GROUP = "settlement"


def consumer(
    settings: KafkaSettings, *, pool: asyncpg.Pool, rule: SplitRule, wake: Callable[[], None], health: Health
) -> Consumer:
    """Takes in settlement requests; `wake` is called when there is something new to pay."""

    async def handle(batch: Sequence[Received]) -> None:
        async with pool.acquire() as conn:
            if await take_in(conn, [(one.event_id, _request(one)) for one in batch], rule=rule):
                wake()

    return Consumer(settings, group=GROUP, topics=GROUPS[GROUP], handle=handle, pool=pool, health=health)


def _request(one: Received) -> Request:
    if not isinstance(one.event, SettlementRequested):
        raise TypeError(f"{one.topic} carries no settlement request")
    return Request(
        order_no=one.event.order_no,
        instruction_id=one.event.instruction_id,
        channel=one.event.channel,
        transaction_ids=one.event.transaction_ids,
        amount_fen=one.event.amount_fen,
        requested_at=one.envelope.time,
        traceparent=one.traceparent,
        attempt=one.event.attempt,
    )
