"""Telling the house something once, however often and on whichever way we learn of it."""

from collections.abc import Sequence
from datetime import datetime

from orderloop import outbox
from orderloop.events import Event
from orderloop.postgres import Connection

from . import store
from .store import Remembered


def news(event: Event, event_id: str, at: datetime, traceparent: str | None) -> Remembered:
    return Remembered(event_id, event.order_no, event.TOPIC, at, traceparent, event.encode())


async def tell(conn: Connection, facts: Sequence[Remembered]) -> set[str]:
    """Stage the facts that nobody has been told; their event ids. Belongs into the transaction of their cause."""
    new = await store.remember(conn, facts) if facts else set[str]()
    staged = [fact for fact in facts if fact.event_id in new]
    await stage(conn, staged)
    return new


async def stage(conn: Connection, facts: Sequence[Remembered]) -> None:
    """Tell them, whoever may have been told."""
    rows = [(f.order_no, f.topic, f.event_id, f.occurred_at, f.traceparent, f.body) for f in facts]
    await outbox.stage_encoded(conn, rows)
