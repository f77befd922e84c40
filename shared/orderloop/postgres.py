"""Connections to PostgreSQL that fail fast and never hold a lock for long."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import TypeAlias

import asyncpg
import orjson
from asyncpg.pool import PoolConnectionProxy

from .settings import PostgresSettings

# What store functions take: a direct connection, or one that a pool lends.
Connection: TypeAlias = asyncpg.Connection | PoolConnectionProxy

# A frozen owner of row locks is cut off well before Kafka's session (30 s) would give its partitions away twice over,
# and nobody queues behind a lock for longer than a batch may take.
SESSION = {
    "lock_timeout": "2s",
    "statement_timeout": "30s",
    # The second also ends an owner who froze between two messages of one statement: PostgreSQL does not take it for
    # idle, and overlooks the statement's limit while it reads. (PostgreSQL 17 and newer)
    "idle_in_transaction_session_timeout": "10s",
    "transaction_timeout": "30s",
    "timezone": "UTC",
    # Queries find their rows by an index. A plan made while a table was new and empty would read all of it, and go
    # on doing so until the grown table has statistics: in its first minute order-core was a third as fast as it is.
    "enable_seqscan": "off",
    "jit": "off",  # compiling takes longer than any statement here; a discouraged scan looks dear enough to be compiled
    # A machine that vanished without a word keeps its locks for 25 s, not for the two hours of the system's default.
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}


def column(texts: Sequence[str | None]) -> str:
    """Many texts as one parameter, for `json_array_elements_text`: hot paths only.

    For an array asyncpg asks of each element twice whether it is a container, and takes three times as long.
    """
    return orjson.dumps(texts).decode()


@asynccontextmanager
async def pool(settings: PostgresSettings, *, application_name: str) -> AsyncGenerator[asyncpg.Pool]:
    """A pool bound to the running loop. It connects when first used: a database that is away does not stop a start."""
    async with asyncpg.create_pool(
        settings.url.get_secret_value(),
        min_size=0,
        max_size=settings.pool_size,
        timeout=5,  # to connect
        command_timeout=35,  # a network that swallows the answer; the server's own limit comes first
        server_settings={**SESSION, "application_name": application_name},
        reset=_as_it_was,
    ) as connections:
        yield connections


async def _as_it_was(_lent: object) -> None:
    """Nobody changes a session that is lent (its settings and locks end with the transaction): a round trip less."""


async def connect(dsn: str, *, application_name: str) -> asyncpg.Connection:
    """One direct connection, outside any pool, for what belongs to a session (advisory locks, LISTEN).

    It has to be used at least every 20 s: whoever is frozen for longer loses the session, and with it the locks.
    """
    return await asyncpg.connect(
        dsn,
        timeout=5,
        command_timeout=35,
        server_settings={**SESSION, "idle_session_timeout": "20s", "application_name": application_name},
    )
