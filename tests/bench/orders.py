"""Orders by the hundred thousand, as reserving each of them would have left them, and what then happens to them."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import asyncpg
from aiokafka import ConsumerRecord, TopicPartition
from aiokafka.partitioner import murmur2

from orderloop.consume import LANES, lane_of
from orderloop.envelope import Envelope
from orderloop.events import Event, ParcelStatus, ParcelTracked, PaymentNotified, PickupDetected, WaybillCreated
from orderloop.topics import PARTITIONS

Record = ConsumerRecord[bytes | None, bytes | None]
Polled = dict[TopicPartition, list[Record]]  # what one poll of a lane returns

AMOUNT = 9900
SPAN = timedelta(days=20)  # over which the orders were reserved; the last month's partitions exist

# One statement per table, with the rows that order_core.reserve writes one at a time. Their order-changed events have
# been published long ago, so none of them is left in the outbox.
_RESERVED = """
insert into orders (order_no, status, version, amount_fen, currency, source, external_order_id, items, receiver,
                    created_at)
select order_no, 'pending', 1, $1, 'CNY', 'bench', n::text, '[{"sku":"SOFA-3","name":"Sofa","quantity":1}]',
       '{"name":"张三","phone":"13800000000","region":"江苏","address":"南京路 1 号"}', at
from fresh order by n;
insert into reservation (source, external_order_id, order_no, body_hash)
select 'bench', n::text, order_no, sha256(order_no::bytea) from fresh order by n;
insert into inbox (order_no, event_id, received_at)
select order_no, format('bench:%s:reserved', n), at from fresh order by n;
insert into order_log (order_no, version, "to", event, event_id, type, actor, occurred_at, recorded_at)
select order_no, 1, 'pending', 'reserved', format('bench:%s:reserved', n), 'reserve', 'bench', at, at
from fresh order by n
"""


async def reserve(conn: asyncpg.Connection, count: int, *, seed: int) -> None:
    """`count` pending orders, made by the database itself: ten million of them pass through no Python."""
    async with conn.transaction():
        await conn.execute('create temp table fresh (n int, order_no text collate "C", at timestamptz) on commit drop')
        await conn.execute(
            # hexadecimal digits are among those of an order_no
            "insert into fresh"
            " select n, to_char(at at time zone 'UTC', 'YYMMDDHH24MISS') || upper(left(md5($4::text || n), 12)), at"
            " from (select n, $1::timestamptz + $2::interval * n / $3::int as at from generate_series(0, $3 - 1) n) o",
            datetime.now(UTC).replace(microsecond=0) - SPAN,
            SPAN,
            count,
            f"{seed}:",
        )
        for statement in _RESERVED.split(";\n"):
            await conn.execute(statement.replace("$1", str(AMOUNT)))
    await conn.execute("vacuum (analyze)")
    await conn.execute("checkpoint")


async def newest(conn: asyncpg.Connection, count: int) -> list[str]:
    """Oldest first."""
    rows = await conn.fetch("select order_no from orders order by order_no desc limit $1", count)
    return [row["order_no"] for row in reversed(rows)]


async def scattered(conn: asyncpg.Connection, count: int, *, before: str, seed: int) -> list[str]:
    """Orders of any age, in any order; the same for the same seed."""
    rows = await conn.fetch(
        "select order_no from orders where order_no < $1 order by md5($2::text || order_no) limit $3",
        before,
        f"{seed}:",
        count,
    )
    return [row["order_no"] for row in rows]


@dataclass(frozen=True, slots=True)
class Sent:
    """An event and the id under which its producer sends it."""

    event_id: str
    source: str
    event: Event


def payments(order_nos: Sequence[str], *, seed: int) -> list[Sent]:
    """One for each order, not quite in the order of their reservations: people pay when they like."""
    rng = random.Random(seed)
    ranks = {order_no: n + rng.uniform(0, 500) for n, order_no in enumerate(order_nos)}
    return [_paid(order_no) for order_no in sorted(order_nos, key=ranks.__getitem__)]


LIFE = 6  # events of an order from its payment to the courier's signature, as far as Kafka brings them


def lives(order_nos: Sequence[str], *, seed: int) -> list[Sent]:
    """Everything Kafka brings of an order that an outside warehouse ships, interleaved with its neighbours'."""
    rng = random.Random(seed)
    timed: list[tuple[float, Sent]] = []
    for n, order_no in enumerate(order_nos):
        at = n + rng.uniform(0, 50)
        for sent in _life(order_no):
            timed.append((at, sent))
            at += rng.uniform(50, 250)
    return [sent for _, sent in sorted(timed, key=lambda one: one[0])]


def polls(sent: Sequence[Sent], *, most: int, sampled: float | None = None) -> list[Polled]:
    """The events as the broker would hand them out, at most so many at a time, and as lanes then take them in turn.

    `sampled` is the share of them whose trace somebody wants; None: their producer knows of no traces.
    """
    rng = random.Random(len(sent))
    offsets: dict[TopicPartition, int] = {}
    batches: list[Polled] = []
    for start in range(0, len(sent), most):
        polled: Polled = {}
        for one in sent[start : start + most]:
            key = one.event.order_no.encode()
            partition = TopicPartition(one.event.TOPIC, (murmur2(key) & 0x7FFFFFFF) % PARTITIONS)
            offset = offsets[partition] = offsets.get(partition, -1) + 1
            trace = None if sampled is None else f"00-{rng.getrandbits(128):032x}-{1:016x}-{rng.random() < sampled:02x}"
            polled.setdefault(partition, []).append(_record(one, partition, offset, trace))
        of_lanes = [{p: records for p, records in polled.items() if lane_of(p) == lane} for lane in range(LANES)]
        batches += filter(None, of_lanes)
    return batches


def _record(sent: Sent, partition: TopicPartition, offset: int, trace: str | None) -> Record:
    now = datetime.now(UTC)
    key, value = sent.event.order_no.encode(), sent.event.encode()
    headers = Envelope(sent.event_id, sent.source, sent.event.TOPIC, now, sent.event.order_no, trace).headers()
    return ConsumerRecord(
        partition.topic,
        partition.partition,
        offset,
        int(now.timestamp() * 1000),
        0,
        key,
        value,
        None,
        len(key),
        len(value),
        tuple(headers),
    )


def _paid(order_no: str) -> Sent:
    transaction_id = f"4200{order_no}"
    body = PaymentNotified(
        order_no=order_no,
        channel="wechat",
        mchid="1900000001",
        transaction_id=transaction_id,
        trade_state="SUCCESS",
        amount_fen=AMOUNT,
        payer_total_fen=AMOUNT,
        currency="CNY",
        paid_at=datetime.now(UTC).replace(microsecond=0),
        source="callback",
    )
    return Sent(f"wechat:{transaction_id}:paid", "/payment-callback", body)


def _life(order_no: str) -> list[Sent]:
    now = datetime.now(UTC).replace(microsecond=0)
    waybill_no, place = f"78{order_no[-12:]}", "苏州转运中心"
    label = WaybillCreated(
        order_no=order_no,
        shipment_id=f"{order_no}_S1",
        express_code="zto",
        waybill_no=waybill_no,
        warehouse="suzhou",
        parcel_no=1,
        parcel_count=1,
        created_at=now,
    )
    pickup = PickupDetected(
        order_no=order_no, express_code="zto", waybill_no=waybill_no, picked_up_at=now, place=place, source="poll"
    )
    scans = [
        ParcelTracked(
            order_no=order_no,
            express_code="zto",
            waybill_no=waybill_no,
            status=status,
            at=now + timedelta(hours=hours),
            place=place,
            text="快件已到达",
        )
        for hours, status in enumerate(
            (ParcelStatus.IN_TRANSIT, ParcelStatus.DELIVERING, ParcelStatus.DELIVERED), start=1
        )
    ]
    return [
        _paid(order_no),
        Sent(f"{order_no}_S1:waybill:{waybill_no}", "/logistics-poller", label),
        Sent(f"zto:{waybill_no}:picked_up", "/logistics-poller", pickup),
        *(Sent(f"zto:{waybill_no}:{scan.status}:{scan.at}", "/logistics-poller", scan) for scan in scans),
    ]
