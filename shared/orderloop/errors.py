"""The error tree of the house.

OrderLoopError
├── Transient            may work later: retried, never parked
└── Permanent            will never work: parked with its reason
    └── MalformedEvent   bytes that are no event of ours
"""

import asyncpg


class OrderLoopError(Exception):
    """Base of every error that OrderLoop raises on purpose."""


class Transient(OrderLoopError):
    """The world is not ready (a connection, a lock, a time-out). Try again later."""


class Permanent(OrderLoopError):
    """The data itself is the trouble. Trying again changes nothing."""


class MalformedEvent(Permanent):
    """A record that does not decode into the event its topic promises."""


# SQLSTATE classes in which the infrastructure speaks, not the data (PostgreSQL manual, appendix A):
# 08 connection, 25 transaction state (a reaped idle transaction, a read-only standby), 40 rollback (deadlock,
# serialization), 53 resources (disk full, too many connections), 55 object state (lock not available),
# 57 operator intervention (shutdown, cancel), 58 system error.
_INFRASTRUCTURE = ("08", "25", "40", "53", "55", "57", "58")


def is_transient(error: BaseException) -> bool:
    """Whether `error` speaks of the infrastructure rather than of the data.

    Infrastructure is retried without limit; only what is wrong with the data may be parked.
    """
    match error:
        case Transient() | OSError() | TimeoutError() | asyncpg.InterfaceError():
            return True
        case asyncpg.PostgresError():
            return str(getattr(error, "sqlstate", "")).startswith(_INFRASTRUCTURE)
        case ExceptionGroup():
            return all(is_transient(inner) for inner in error.exceptions)
        case _:
            return False
