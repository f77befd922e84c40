"""What the outbox still holds: where the relay's reading begins, and what is told of it."""

import math
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiosql

from . import metrics
from .postgres import Connection

_sql: Any = aiosql.from_path(Path(__file__).with_suffix(".sql"), "asyncpg")

_LOOK_SECONDS = 5.0
_MOST_COUNTED = 100_000  # rows; counting more takes longer than knowing is worth


class Mark:
    """The id at or below which no row is, nor can come: reading begins behind it (docs/adr/0009).

    While somebody holds an old snapshot, the index entries of deleted rows stay, and each costs 0.1 µs whenever a
    read from the beginning passes it. An id is drawn before its row is committed, so "the highest one seen" would
    lose rows. What may yet bring one is a transaction that holds the table's writing lock, which it took before it
    drew: once all those that held it after an id was seen have ended, whatever is to come lies above that id.
    """

    def __init__(self, *, every: int) -> None:
        """`every`: how many ids to let pass before moving on."""
        self.id = 0
        self._every = every
        self._goal: int | None = None
        self._writers: list[str] = []

    async def follow(self, conn: Connection, seen: int) -> None:
        """Move on if that is possible now. `seen`: an id that was read."""
        if self._goal is None:
            if seen < self.id + self._every:
                return
            self._goal, self._writers = seen, await _sql.writers(conn)
        if self._writers and await _sql.any_of(conn, writers=self._writers):
            return
        # A statement of its own: its snapshot has to be younger than the end of the last writer.
        self.id = await _sql.below_the_first(conn, mark=self.id, goal=self._goal)
        self._goal = None


class Watch:
    """Tells the metrics how many rows wait and for how long, every few seconds.

    A row does not say when it was staged (the event's own time may be of yesterday), so its age counts from the
    first look that saw an id as high as its.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._next = -math.inf
        self._seen: deque[tuple[float, int]] = deque()  # (moment, the newest id then), newest last

    async def look(self, conn: Connection, mark: Mark) -> None:
        if (now := self._clock()) < self._next:
            return
        self._next = now + _LOOK_SECONDS
        row = await _sql.waiting(conn, mark=mark.id, most=_MOST_COUNTED)
        metrics.OUTBOX_ROWS.set(row["rows"])
        metrics.OUTBOX_AGE.set(self._age(now, row["oldest"], row["newest"]) if row["rows"] else 0)
        metrics.OUTBOX_PARKED.set(row["parked"])

    def rest(self) -> None:
        """Another process leads, and tells."""
        self._seen.clear()
        metrics.OUTBOX_ROWS.set(0)
        metrics.OUTBOX_AGE.set(0)
        metrics.OUTBOX_PARKED.set(0)

    def _age(self, now: float, oldest: int, newest: int) -> float:
        if not self._seen or self._seen[-1][1] < newest:
            self._seen.append((now, newest))
        while self._seen[0][1] < oldest:
            self._seen.popleft()
        return now - self._seen[0][0]
