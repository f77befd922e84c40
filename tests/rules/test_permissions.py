"""What each app role may do, tried: role x table x verb x column. What is not listed here is refused."""

from collections.abc import Callable
from dataclasses import dataclass, field

import asyncpg
import pytest

from tests.rules.source import DATABASES
from tests.support.databases import Database

ALL = frozenset({"*"})


@dataclass(frozen=True, slots=True)
class Rights:
    """Every listed table may be read and added to; further rights by table."""

    tables: frozenset[str]
    deletes: frozenset[str]
    updates: dict[str, frozenset[str]] = field(default_factory=dict)  # table: columns, or ALL


RIGHTS = {
    "payment_callback": Rights(
        tables=frozenset(
            {"callback_log", "callback_memory", "callback_hold", "outbox", "outbox_parked"}
            | {"errand", "errand_timer", "awaited_payment", "callback_missing", "platform_certificate"}
        ),
        deletes=frozenset({"callback_hold", "outbox", "errand_timer", "awaited_payment"}),
        updates={
            "errand": frozenset({"outcome", "finished_at"}),
            "errand_timer": ALL,
            "awaited_payment": ALL,
            "platform_certificate": frozenset({"confirmed_at"}),
        },
    ),
    "order_core": Rights(
        tables=frozenset(
            {"orders", "reservation", "payment_claim", "payment", "shipment", "parcel", "inbox", "order_log", "waiting"}
            | {"anomaly", "idempotency", "access_log", "outbox", "outbox_parked"}
            | {"refund", "instruction", "closing", "timer", "dead_letter"}
        ),
        deletes=frozenset({"waiting", "outbox", "timer"}),
        updates={
            "orders": ALL,
            "payment": ALL,
            "refund": frozenset({"state", "whole", "refund_id", "changed_at"}),
            "instruction": frozenset({"asked", "state"}),
            "closing": frozenset({"asked", "open"}),
            "timer": frozenset({"due_at"}),
            "dead_letter": frozenset({"resolved_at", "resolved_by", "resolution"}),
            "parcel": ALL,
            "anomaly": ALL,
            "idempotency": frozenset({"status", "answer"}),
            "waiting": frozenset({"since"}),
            "inbox": frozenset({"outcome"}),
        },
    ),
    "logistics": Rights(
        tables=frozenset(
            {"inbox", "outbox", "outbox_parked", "shipment", "parcel", "parcel_scan", "shipment_timer", "waybill_timer"}
        ),
        deletes=frozenset({"outbox", "shipment_timer", "waybill_timer"}),
        updates={
            "inbox": frozenset({"outcome"}),
            "shipment": ALL,
            "parcel": ALL,
            "shipment_timer": ALL,
            "waybill_timer": ALL,
        },
    ),
    "settlement": Rights(
        tables=frozenset({"inbox", "outbox", "outbox_parked", "settlement", "payout", "bank_call", "settlement_timer"}),
        deletes=frozenset({"outbox", "settlement_timer"}),
        updates={
            "inbox": frozenset({"outcome"}),
            "settlement_timer": ALL,
            "settlement": frozenset({"status", "bank_code", "reason", "sent_at", "taken_at", "success_at"})
            | {"attempt", "asked", "traceparent"},
            "payout": frozenset({"status", "arrived_at", "reason"}),
            "bank_call": frozenset({"answered_at", "heard", "reason"}),
        },
    ),
}
# History and evidence: whatever a service is talked into, it cannot rewrite these.
NEVER_REWRITTEN = {
    "payment_callback": {"callback_log", "callback_memory", "callback_missing"},
    "order_core": {"order_log", "access_log", "payment_claim", "reservation", "shipment"},
    "logistics": {"parcel_scan"},
    "settlement": set[str](),
}


@pytest.fixture(params=DATABASES)
def asked(request: pytest.FixtureRequest, database: Callable[[str], Database]) -> tuple[str, Database]:
    return request.param, database(request.param)


async def _columns(database: Database) -> dict[str, list[str]]:
    """Every table of the database, partitions and the migrations' own included, with its columns."""
    conn = await asyncpg.connect(database.admin_url)
    try:
        rows = await conn.fetch(
            "select table_name, array_agg(column_name::text order by ordinal_position) as columns"
            " from information_schema.columns where table_schema = 'public' group by table_name"
        )
    finally:
        await conn.close()
    return {row["table_name"]: row["columns"] for row in rows}


async def _may(conn: asyncpg.Connection, statement: str) -> bool:
    """Whether the role may do it; any other complaint of the database comes after permission was granted."""
    attempt = conn.transaction()
    await attempt.start()
    try:
        await conn.execute(statement)
    except asyncpg.InsufficientPrivilegeError:
        return False
    except asyncpg.PostgresError:
        return True
    finally:
        await attempt.rollback()
    return True


async def _rights(database: Database) -> Rights:
    """What the app role may do, by trying everything."""
    tables = await _columns(database)
    conn = await asyncpg.connect(database.app_url)
    try:
        readable = {t for t in tables if await _may(conn, f'select from "{t}" limit 0')}
        addable = {t for t in tables if await _may(conn, f'insert into "{t}" default values')}
        assert readable == addable
        for table in tables:
            assert not await _may(conn, f'truncate "{table}"')
            assert not await _may(conn, f'drop table "{table}"')
        updates: dict[str, frozenset[str]] = {}
        for table, columns in tables.items():
            attempts = {c: f'update "{table}" set "{c}" = default where false' for c in columns}  # noqa: S608 # our own names
            allowed = {c for c, attempt in attempts.items() if await _may(conn, attempt)}
            if allowed:
                updates[table] = ALL if allowed == set(columns) else frozenset(allowed)
        deletes = {t for t in tables if await _may(conn, f'delete from "{t}" where false')}  # noqa: S608
        assert not await _may(conn, "create table planted (n int)")
    finally:
        await conn.close()
    return Rights(frozenset(readable), frozenset(deletes), updates)


async def test_the_app_role_may_do_what_is_listed_and_nothing_else(asked: tuple[str, Database]) -> None:
    name, database = asked
    assert await _rights(database) == RIGHTS[name]


def test_no_listed_right_rewrites_history() -> None:
    for name, history in NEVER_REWRITTEN.items():
        assert history <= RIGHTS[name].tables
        assert not history & (RIGHTS[name].deletes | RIGHTS[name].updates.keys())
        assert RIGHTS[name].updates.get("inbox", frozenset({"outcome"})) == {"outcome"}


async def test_a_planted_grant_would_be_found(database: Callable[[str], Database]) -> None:
    planted = database("order_core")
    owner = await asyncpg.connect(planted.owner_url)
    try:
        await owner.execute("grant delete, update (detail) on order_log to order_core_app")
    finally:
        await owner.close()
    rights = await _rights(planted)
    assert "order_log" in rights.deletes
    assert rights.updates["order_log"] == {"detail"}


async def test_an_app_role_cannot_enter_another_service_s_database(database: Callable[[str], Database]) -> None:
    own, foreign = database("settlement"), database("order_core")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await asyncpg.connect(own.app_url.replace(own.name, foreign.name))
