"""Every query fits the migrated schema, and the app role may do what it must and no more."""

from typing import Any, cast

import asyncpg
import pytest

from logistics_poller import store
from tests.support.logistics import HOUR, MovableClock, new_order, shipment_requested, take_in, waybill_created


def queries() -> list[str]:
    return sorted(name for name in store._sql.available_queries if not name.endswith("_cursor"))  # pyright: ignore


@pytest.mark.parametrize("name", queries())
async def test_a_query_fits_the_schema(pool: asyncpg.Pool, name: str) -> None:
    async with pool.acquire() as conn:
        await conn.prepare(cast("Any", getattr(store._sql, name)).sql)  # pyright: ignore


@pytest.mark.parametrize(
    "statement",
    [
        "delete from inbox",
        "update inbox set order_no = 'x'",
        "delete from shipment",
        "delete from parcel",
        "update parcel_scan set text = 'x'",
        "update outbox set topic = 'x'",
        "drop table parcel",
        "create table mine (a int)",
    ],
)
async def test_the_app_role_may_not(pool: asyncpg.Pool, statement: str) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await pool.execute(statement)


async def test_a_claim_in_progress_hides_its_rows_from_others_and_blocks_nobody(pool: asyncpg.Pool) -> None:
    now = MovableClock().now()
    for n in range(4):
        order_no = new_order()
        event = waybill_created(order_no, f"78000020000{n}", created_at=now - 10 * HOUR)
        await take_in(pool, (event, "printed"), (shipment_requested(order_no), "requested"))
    claims = {"now": now + HOUR, "lease_until": now + 2 * HOUR, "most": 3}
    async with pool.acquire() as one, pool.acquire() as other, one.transaction(), other.transaction():
        waybills = [await store.claim_waybills(conn, **claims) for conn in (one, other)]
        shipments = [await store.claim_shipments(conn, **claims) for conn in (one, other)]
    assert [len(claimed) for claimed in (*waybills, *shipments)] == [3, 1, 3, 1]
    assert len({waybill.waybill_no for claimed in waybills for waybill in claimed}) == 4
    assert len({shipment.shipment_id for claimed in shipments for shipment in claimed}) == 4
