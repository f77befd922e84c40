"""The error tree of the house.

OrderLoopError
├── Transient            may work later: retried, never parked
└── Permanent            will never work: parked with its reason
    └── MalformedEvent   bytes that are no event of ours
"""

import traceback
from pathlib import Path

import asyncpg
import httpx
import redis
from aiokafka.errors import KafkaError


class OrderLoopError(Exception):
    """Base of every error that OrderLoop raises on purpose."""


class Transient(OrderLoopError):
    """The world is not ready (a connection, a lock, a time-out). Try again later."""


class Permanent(OrderLoopError):
    """The data itself is the trouble. Trying again changes nothing."""


class MalformedEvent(Permanent, ValueError):
    """What does not decode into the event that its topic promises, or would not."""


# SQLSTATE classes in which the infrastructure speaks, not the data (PostgreSQL manual, appendix A):
# 08 connection, 25 transaction state (a reaped idle transaction, a read-only standby), 28 log-in (a password that is
# being rotated), 3D unknown database (one that is being restored), 40 rollback (deadlock, serialization), 53 resources
# (disk full, too many connections), 55 object state (lock not available), 57 operator intervention (shutdown, cancel),
# 58 system error, XX internal error (a damaged page, a catalogue that changed under the query).
_INFRASTRUCTURE = ("08", "25", "28", "3D", "40", "53", "55", "57", "58", "XX")


# What becomes of a question to Redis when it is away, or goes. The last is uvloop's: the connection that the pool has
# handed out was closed a moment ago.
REDIS_AWAY = (redis.RedisError, OSError, RuntimeError)


def is_transient(error: BaseException) -> bool:
    """Whether `error` speaks of the infrastructure rather than of the data.

    Infrastructure is retried without limit; only what is wrong with the data may be parked.
    """
    match error:
        case Transient() | OSError() | TimeoutError():
            return True
        case asyncpg.InterfaceError():
            # asyncpg reports values that do not fit their parameter under the same class as lost connections.
            return not isinstance(error, ValueError)
        case asyncpg.InternalClientError() | asyncpg.InvalidCachedStatementError():
            return (
                True  # a broken connection; a statement prepared before a migration, which the next try prepares anew
            )
        case asyncpg.PostgresError():
            return str(getattr(error, "sqlstate", "")).startswith(_INFRASTRUCTURE)
        case KafkaError():
            return error.retriable
        case redis.ConnectionError() | redis.TimeoutError() | httpx.TransportError():
            return True
        case ExceptionGroup():
            return all(is_transient(inner) for inner in error.exceptions)
        case _:
            return False


def reason(error: BaseException) -> str:
    """What may be told of an error in a log line or a dead letter: what and where, never the values it quotes.

    A database's message holds the row it refused, a conversion's the text it could not convert: somebody's address.
    """
    name = type(error).__name__
    match error:
        case OrderLoopError() | OSError() | KafkaError():
            return f"{name}: {error}"
        case asyncpg.PostgresError():
            place = ("sqlstate", "schema_name", "table_name", "column_name", "constraint_name")
            return " ".join([name, *(str(part) for field in place if (part := getattr(error, field, None)))])
        case _:
            frames = traceback.extract_tb(error.__traceback__)
            return f"{name} in {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else name
