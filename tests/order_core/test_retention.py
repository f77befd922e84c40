"""What is old and finished goes, and nothing else; nobody is stopped by it. On a real PostgreSQL, as its owner."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import asyncpg
import pytest

from order_core.app import explained
from order_core.apply import apply
from order_core.retention import Keep, Line, enforce
from order_core.settings import RetentionSettings
from orderloop.postgres import SESSION
from orderloop_lab.invariants import World, check
from tests.support.databases import Database
from tests.support.orders import NOW, close_asked, close_told, paid, refund_asked, refund_told, reserved

KEEP = RetentionSettings().keep
MONTH = f"{NOW:%y%m}"
LATER = NOW + KEEP.orders + timedelta(days=62)  # when this month of orders is old


@pytest.fixture
async def owner(order_core: Database) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(order_core.owner_url)
    yield connection
    await connection.close()


async def closed(conn: asyncpg.Connection, external_order_id: str = "1") -> str:
    order_no = await reserved(conn, external_order_id)
    for event in (close_asked(order_no), close_told(order_no)):
        async with conn.transaction():
            await apply(conn, [event], now=NOW)
    await conn.execute("delete from outbox")
    return order_no


async def months(conn: asyncpg.Connection) -> set[str]:
    rows = await conn.fetch("select relname from pg_class where relname ~ '^(inbox|order_log)_[0-9]{4}$'")
    return {row["relname"] for row in rows}


def of_months(lines: list[Line] | None) -> dict[str, str | None]:
    return {line.what: line.kept for line in lines or [] if line.what.startswith("month")}


async def test_a_month_of_finished_orders_loses_its_history_and_nothing_else(
    conn: asyncpg.Connection, owner: asyncpg.Connection, order_core: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    order_no = await closed(conn)
    before = await months(conn)

    assert of_months(await enforce(owner, KEEP, now=NOW)) == {}
    dry = await enforce(owner, KEEP, now=LATER, dry_run=True)
    assert await months(conn) == before
    wet = await enforce(owner, KEEP, now=LATER)

    assert of_months(dry) == of_months(wet)
    assert of_months(wet)[f"month of orders {MONTH}"] is None
    assert {f"inbox_{MONTH}", f"order_log_{MONTH}"} <= before - await months(conn)
    assert await conn.fetchval("select status from orders where order_no = $1", order_no) == "closed"
    assert (await check(World({"order_core": order_core.admin_url}))).violations == []
    monkeypatch.setenv("ORDERLOOP_POSTGRES_URL", order_core.app_url)
    assert "its history was old and has been removed" in (await explained(order_no, "en") or "")


@pytest.mark.parametrize(
    ("unfinished", "why"),
    [
        ("update orders set status = 'pending'", "orders are not finished"),
        ("update order_log set recorded_at = now() + interval '1100 days'", "orders may still be refunded"),
        ("insert into refund values ($1, 'R1', 'wechat', '4200001', 1, 'abnormal', false, '', null, now(), now())", 0),
        ("insert into anomaly (order_no, event_id, kind, money_fen, evidence, type, actor, occurred_at)"
         " values ($1, 'x', 'paid_twice', 1, '{}', 't', 'a', now())", "anomalies are open"),
        ("insert into outbox (order_no, topic, event_id, occurred_at, body) values ($1, 't', 'e', now(), '')",
         "events are not published"),
    ],
)  # fmt: skip
async def test_a_month_stays_as_long_as_something_of_it_is_unfinished(
    conn: asyncpg.Connection, owner: asyncpg.Connection, unfinished: str, why: str
) -> None:
    order_no = await closed(conn)
    async with conn.transaction():
        await apply(conn, [paid(order_no)], now=NOW)
    await owner.execute("update anomaly set resolved_at = now()")
    await owner.execute(unfinished, *([order_no] if "$1" in unfinished else []))

    lines = of_months(await enforce(owner, KEEP, now=LATER))

    assert lines[f"month of orders {MONTH}"] == (why or "refunds are not finished")
    assert f"order_log_{MONTH}" in await months(conn)


async def test_a_reader_keeps_a_month_there_and_nobody_waits_behind_it(
    conn: asyncpg.Connection, owner: asyncpg.Connection, order_core: Database
) -> None:
    await closed(conn)
    reader = await asyncpg.connect(order_core.app_url)
    reading = reader.transaction()
    await reading.start()
    await reader.fetch("select count(*) from order_log")

    cutting = asyncio.create_task(enforce(owner, KEEP, now=LATER))
    async with asyncio.timeout(10):
        while not await conn.fetchval("select exists (select from pg_inherits where inhdetachpending)"):
            assert not cutting.done()
    await conn.execute("set lock_timeout = '100ms'")
    await conn.execute("insert into inbox (order_no, event_id) values ($1, 'while it waits')", MONTH)
    lines = of_months(await cutting)
    assert [*lines.values()] == ["somebody reads it"]

    await reading.rollback()
    await reader.close()
    lines = of_months(await enforce(owner, KEEP, now=LATER))

    assert lines[f"month of orders {MONTH}"] is None
    assert f"order_log_{MONTH}" not in await months(conn)


async def test_a_run_that_died_between_cutting_off_and_dropping_is_finished_by_the_next(
    conn: asyncpg.Connection, owner: asyncpg.Connection
) -> None:
    await closed(conn)
    await owner.execute(f"alter table order_log detach partition order_log_{MONTH} concurrently")

    lines = of_months(await enforce(owner, KEEP, now=LATER))

    assert lines[f"month of orders {MONTH}"] is None
    assert not {f"order_log_{MONTH}", f"inbox_{MONTH}"} & await months(conn)


async def test_keys_attempts_letters_and_evidence_go_when_they_are_old_and_finished(
    conn: asyncpg.Connection, owner: asyncpg.Connection
) -> None:
    order_no = await reserved(conn)
    for event in (paid(order_no), refund_asked(order_no, 900), refund_told(order_no, 1, "CLOSED", amount_fen=900)):
        async with conn.transaction():
            await apply(conn, [event], now=NOW)
    await owner.execute(
        """insert into idempotency select 'shop', 'ship', n::text, '', 202, '', now() - n * interval '10 days'
           from generate_series(1, 5) n;
           insert into access_log (order_no, request_id, route, caller, status, at)
           values ('x', '1', 'ship', 'shop', 202, now() - interval '190 days'), ('x', '2', 'ship', 'shop', 202, now());
           insert into dead_letter (origin, topic, consumer_group, headers, body, reason, attempts, failed_at,
                                    sent_before, resolved_at)
           select 't-0-' || n, 't', 'g', '[]', '', 'r', 1, now() - interval '1 year', 0,
                  case when n > 1 then now() - n * interval '40 days' end from generate_series(1, 4) n;
           insert into anomaly (order_no, event_id, kind, money_fen, evidence, type, actor, occurred_at, resolved_at)
           values ('x', '1', 'paid_twice', 1, '{"a": 1}', 't', 'a', now(), now() - interval '190 days'),
                  ('x', '2', 'paid_twice', 1, '{"a": 1}', 't', 'a', now(), now() - interval '10 days')"""
    )

    dry = await enforce(owner, KEEP, now=NOW, dry_run=True)
    wet = await enforce(owner, KEEP, now=NOW)
    again = await enforce(owner, KEEP, now=NOW)

    assert dry == wet == [
        Line("idempotency keys", 2),
        Line("attempts in the access log", 1),
        Line("finished dead letters", 2),
        Line("evidence of resolved anomalies", 1),
    ]  # fmt: skip
    assert [line.rows for line in again or []] == [0, 0, 0, 0]
    assert await conn.fetchval("select count(*) from dead_letter where resolved_at is null") == 1
    left = await conn.fetch("select evidence::text from anomaly order by id")
    assert [row[0] != "{}" for row in left] == [True, False, True]


async def test_one_run_leads_and_another_leaves_it_alone(owner: asyncpg.Connection, order_core: Database) -> None:
    other = await asyncpg.connect(order_core.owner_url)
    try:
        assert await enforce(other, KEEP, now=NOW) is not None
        assert await enforce(owner, KEEP, now=NOW) is None
    finally:
        await other.close()


async def test_the_service_itself_may_remove_nothing(conn: asyncpg.Connection) -> None:
    assert SESSION["idle_in_transaction_session_timeout"]  # which the owner's run does not need: it opens none
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await enforce(conn, Keep(*[timedelta(0)] * 5), now=NOW)
