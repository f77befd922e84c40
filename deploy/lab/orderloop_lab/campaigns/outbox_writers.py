"""`python -m orderloop_lab.campaigns.outbox_writers`: some lanes of the campaign `outbox`, in a process of their own.

Each lane is a connection of order-core's own role. Its transactions lock orders, give each its next version, and stage
what order-core would, partly before and partly after a pause: so ids are committed in another order than drawn.
"""

import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

import asyncpg
import uvloop

from orderloop import outbox
from orderloop.events import Cause, OrderChanged
from orderloop.topics import ORDER_CHANGED

from .outbox_plan import LANES, Plan, Transaction

# `allowed`: rows that may be staged by now. Without a limit the relay would read far behind the writers, where no id is
# missing any more.
TABLES = """
create schema campaign;
create table campaign.orders (order_no text collate "C" primary key, version int not null default 0);
create table campaign.pace (allowed bigint not null);
insert into campaign.pace values (0);
grant usage on schema campaign to order_core_app;
grant select, update on campaign.orders, campaign.pace to order_core_app;
"""
NEVER = "rolled back"  # stands in what must never be published
_LOOK_SECONDS = 0.02

_CHANGE = """
update campaign.orders o set version = o.version + 1
from (select order_no from campaign.orders where order_no = any($1) order by order_no for update) as locked
where o.order_no = locked.order_no
returning o.order_no, o.version
"""


@dataclass(frozen=True, slots=True)
class Errand:
    url: str
    rows: int
    seed: int
    lanes: Sequence[int]

    def argv(self) -> tuple[str, ...]:
        return (sys.executable, "-m", __name__, json.dumps(asdict(self)))


async def write(errand: Errand) -> None:
    await asyncio.gather(*(_write_lane(errand, lane) for lane in errand.lanes))


async def _write_lane(errand: Errand, lane: int) -> None:
    conn = await asyncpg.connect(errand.url)
    allowed = written = 0
    try:
        for one in Plan(errand.rows, errand.seed).lane(lane):
            while written >= allowed:
                allowed = await conn.fetchval("select allowed from campaign.pace") // LANES
                if written >= allowed:
                    await asyncio.sleep(_LOOK_SECONDS)
            transaction = conn.transaction()
            await transaction.start()
            await _stage(conn, one)
            if one.rolled_back:
                await transaction.rollback()
            else:
                await transaction.commit()
                written += len(one.order_nos)
    finally:
        await conn.close()


async def _stage(conn: asyncpg.Connection, one: Transaction) -> None:
    rows = await conn.fetch(_CHANGE, one.order_nos)
    middle = len(rows) // 2 if one.pause else len(rows)
    await _stage_rows(conn, rows[:middle], one)
    if one.pause:
        await asyncio.sleep(one.pause)
        await _stage_rows(conn, rows[middle:], one)


async def _stage_rows(conn: asyncpg.Connection, rows: Sequence[asyncpg.Record], one: Transaction) -> None:
    now = datetime.now(UTC)
    changes = [(row["order_no"], row["version"]) for row in rows]
    await outbox.stage_encoded(
        conn,
        [(no, ORDER_CHANGED, f"{no}:{version}", now, None, _body(no, version, now, one)) for no, version in changes],
    )


def _body(order_no: str, version: int, now: datetime, one: Transaction) -> bytes:
    kind = NEVER if one.rolled_back else "payment-notified"
    return OrderChanged(
        order_no=order_no,
        version=version,
        from_="pending",
        to="paid",
        cause=Cause(event_id=f"wechat:4200{order_no}:paid", type=kind),
        at=now,
        actor="payment-callback",
        amount_fen=9900,
        channel="wechat",
    ).encode()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(write(Errand(**json.loads(sys.argv[1]))))
