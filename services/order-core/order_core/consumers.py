"""Events in: a batch from Kafka becomes a batch for the write path."""

from collections.abc import Sequence
from typing import cast

import asyncpg

from orderloop.clock import Clock
from orderloop.consume import Handler, Received
from orderloop.failpoints import failpoint
from orderloop.topics import GROUPS

from .apply import apply
from .orders import Body, Incoming
from .timers import PATIENCE, Patience

TOPICS = GROUPS["order-core"]


def handler(pool: asyncpg.Pool, clock: Clock, patience: Patience = PATIENCE) -> Handler:
    """Applies each batch in one transaction."""

    async def handle(batch: Sequence[Received]) -> None:
        events = [incoming(received) for received in batch]
        async with pool.acquire() as conn:
            async with conn.transaction():
                await apply(conn, events, now=clock.now(), patience=patience)
                failpoint("order-core.before_commit")
            failpoint("order-core.after_commit")

    return handle


def incoming(received: Received) -> Incoming:
    envelope = received.envelope
    return Incoming(
        envelope.subject,
        envelope.event_id,
        envelope.type,
        envelope.source,
        envelope.time,
        cast("Body", received.event),
        received.traceparent,
    )
