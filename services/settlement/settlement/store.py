"""Settlement's tables. One function per query in store.sql; nobody here begins or ends a transaction."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import aiosql
import orjson

from orderloop.postgres import Connection

from .answers import Instruction, Payout, PayoutTold
from .split import Share
from .states import Heard, Standing, Status, Step

_sql: Any = aiosql.from_path(Path(__file__).with_name("store.sql"), "asyncpg")

Key = tuple[str, str]  # order_no, instruction_id


@dataclass(frozen=True, slots=True)
class Request:
    """order-core's wish to have an order's money split."""

    order_no: str
    instruction_id: str
    channel: str
    transaction_ids: tuple[str, ...]
    amount_fen: int
    requested_at: datetime
    traceparent: str | None
    attempt: int = 1

    @property
    def key(self) -> Key:
        return self.order_no, self.instruction_id


@dataclass(frozen=True, slots=True)
class Call:
    """One call to the bank that has been written down and is now to be made."""

    id: int
    order_no: str
    instruction_id: str
    attempt: int
    step: Step
    traceparent: str | None


@dataclass(frozen=True, slots=True)
class Held:
    """A settlement whose row is locked until the transaction ends."""

    standing: Standing
    attempt: int
    amount_fen: int


@dataclass(frozen=True, slots=True)
class Search:
    order_no: str | None = None
    instruction_id: str | None = None
    status: Status | None = None
    requested_from: datetime | None = None
    requested_until: datetime | None = None
    after: Key | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """A settlement as finance sees it."""

    order_no: str
    instruction_id: str
    attempt: int
    amount_fen: int
    status: Status
    bank_code: str | None
    arrived_at: datetime | None
    reason: str | None
    requested_at: datetime

    @property
    def key(self) -> Key:
        return self.order_no, self.instruction_id


async def add_settlements(conn: Connection, requests: Sequence[Request]) -> set[Key]:
    """Write down what is new; returns the keys that were."""
    rows = _sql.add_settlements(
        conn,
        order_nos=[r.order_no for r in requests],
        instruction_ids=[r.instruction_id for r in requests],
        channels=[r.channel for r in requests],
        transaction_ids=[orjson.dumps(r.transaction_ids).decode() for r in requests],
        amounts=[r.amount_fen for r in requests],
        requested_ats=[r.requested_at for r in requests],
        traceparents=[r.traceparent for r in requests],
    )
    return {(row["order_no"], row["instruction_id"]) async for row in rows}


async def amounts(conn: Connection, keys: Iterable[Key]) -> dict[Key, int]:
    """What each instruction is about, in fen."""
    keys = list(keys)
    rows = _sql.amounts(conn, order_nos=[order_no for order_no, _ in keys], instruction_ids=[key for _, key in keys])
    return {(row["order_no"], row["instruction_id"]): row["amount_fen"] async for row in rows}


async def add_payouts(conn: Connection, shares: Mapping[Key, Sequence[Share]]) -> None:
    """The first attempt's payouts, each instruction with a timer that is due at once."""
    flat = [(order_no, key, share) for (order_no, key), those in shares.items() for share in those]
    await _sql.add_payouts(
        conn,
        order_nos=[order_no for order_no, _, _ in flat],
        instruction_ids=[key for _, key, _ in flat],
        receivers=[share.receiver.name for _, _, share in flat],
        accounts=[share.receiver.account for _, _, share in flat],
        amounts=[share.amount_fen for _, _, share in flat],
    )
    await _sql.start_timers(
        conn, order_nos=[order_no for order_no, _ in shares], instruction_ids=[key for _, key in shares]
    )


async def ask_again(conn: Connection, requests: Sequence[Request]) -> set[Key]:
    """Note which attempts are wanted; returns the keys of what can be tried again."""
    await _sql.want_attempts(
        conn,
        order_nos=[r.order_no for r in requests],
        instruction_ids=[r.instruction_id for r in requests],
        attempts=[r.attempt for r in requests],
        traceparents=[r.traceparent for r in requests],
    )
    return await retry(conn, [r.key for r in requests])


async def retry(conn: Connection, keys: Iterable[Key]) -> set[Key]:
    """Take up what the bank has refused and is wanted again, with a timer that is due at once; returns its keys."""
    keys = list(keys)
    rows = _sql.retry(conn, order_nos=[order_no for order_no, _ in keys], instruction_ids=[key for _, key in keys])
    return {(row["order_no"], row["instruction_id"]) async for row in rows}


async def next_attempt(conn: Connection, key: Key, accounts: Mapping[str, str]) -> None:
    """Whoever was refused is to be paid the same by another attempt, to the account that is now known as theirs."""
    await _sql.plan_payouts_again(
        conn, order_no=key[0], instruction_id=key[1], receivers=list(accounts), accounts=list(accounts.values())
    )
    await _sql.begin_attempt(conn, order_no=key[0], instruction_id=key[1])


async def claim_due(conn: Connection, *, most: int, lease: timedelta) -> list[Call]:
    """Take what is due for so long, and write down the calls that are about to be made."""
    return [
        Call(row["id"], row["order_no"], row["instruction_id"], row["attempt"], Step(row["step"]), row["traceparent"])
        async for row in _sql.claim_due(conn, most=most, lease=lease)
    ]


async def instruction(conn: Connection, call: Call) -> Instruction:
    rows = _sql.payouts(conn, order_no=call.order_no, instruction_id=call.instruction_id, attempt=call.attempt)
    return Instruction(
        # A bank keeps what it refused under its key: another attempt needs another one.
        reference=call.instruction_id if call.attempt == 1 else f"{call.instruction_id}_A{call.attempt}",
        order_no=call.order_no,
        payouts=tuple([Payout(row["receiver"], row["account"], row["amount_fen"]) async for row in rows]),
    )


async def lock_settlement(conn: Connection, key: Key) -> Held:
    row = await _sql.lock_settlement(conn, order_no=key[0], instruction_id=key[1])
    standing = Standing(Status(row["status"]), row["sent_at"], row["taken_at"])
    return Held(standing, row["attempt"], row["amount_fen"])


async def answered(conn: Connection, call: Call, heard: Heard, reason: str | None) -> None:
    await _sql.answered(conn, order_no=call.order_no, id=call.id, heard=heard, reason=reason)


async def record_settlement(
    conn: Connection,
    key: Key,
    *,
    status: Status,
    bank_code: str | None,
    reason: str | None,
    taken: bool,
    success_at: datetime | None,
) -> None:
    await _sql.record_settlement(
        conn,
        order_no=key[0],
        instruction_id=key[1],
        status=status,
        bank_code=bank_code,
        reason=reason,
        taken=taken,
        success_at=success_at,
    )


async def record_payouts(conn: Connection, call: Call, told: Sequence[PayoutTold]) -> None:
    await _sql.record_payouts(
        conn,
        order_no=call.order_no,
        instruction_id=call.instruction_id,
        attempt=call.attempt,
        receivers=[payout.receiver for payout in told],
        statuses=[payout.status for payout in told],
        arrived_ats=[payout.arrived_at for payout in told],
        reasons=[payout.reason for payout in told],
    )


async def asked(conn: Connection, key: Key) -> int:
    """How often the bank has been asked about it."""
    return await _sql.asked(conn, order_no=key[0], instruction_id=key[1]) or 0


async def set_timer(conn: Connection, key: Key, step: Step, *, due_in: timedelta) -> None:
    await _sql.set_timer(conn, order_no=key[0], instruction_id=key[1], step=step, due_in=due_in)


async def stop_timer(conn: Connection, key: Key) -> None:
    await _sql.stop_timer(conn, order_no=key[0], instruction_id=key[1])


async def search(conn: Connection, wanted: Search, *, most: int) -> list[Row]:
    """At most `most` settlements, newest order first, those after `wanted.after`."""
    after_order_no, after_id = wanted.after or (None, None)
    rows = _sql.search(
        conn,
        order_no=wanted.order_no,
        instruction_id=wanted.instruction_id,
        status=wanted.status,
        requested_from=wanted.requested_from,
        requested_until=wanted.requested_until,
        after_order_no=after_order_no,
        after_id=after_id,
        most=most,
    )
    return [
        Row(
            order_no=row["order_no"],
            instruction_id=row["instruction_id"],
            attempt=row["attempt"],
            amount_fen=row["amount_fen"],
            status=Status(row["status"]),
            bank_code=row["bank_code"],
            arrived_at=row["arrived_at"],
            reason=row["reason"],
            requested_at=row["requested_at"],
        )
        async for row in rows
    ]


async def open_settlements(conn: Connection) -> dict[Status, tuple[int, float]]:
    """Per status that is not final: how many, and the age of the oldest in seconds."""
    return {
        Status(row["status"]): (row["settlements"], row["oldest_seconds"]) async for row in _sql.open_settlements(conn)
    }
