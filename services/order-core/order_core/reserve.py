"""Reserving an order_no before the payment page opens (PAY-4)."""

import hashlib
from dataclasses import asdict, dataclass
from datetime import datetime

import orjson

from orderloop import inbox, outbox
from orderloop.events import Cause, Item, OrderChanged, Receiver
from orderloop.ids import new_order_no
from orderloop.postgres import Connection
from orderloop.tracing import current_traceparent

from . import parts, store
from .states import Status
from .timers import PATIENCE, Kind, Patience, Timer


@dataclass(frozen=True, slots=True)
class Reservation:
    """What the shop wants to sell, under its own id for it."""

    source: str  # the shop, such as douyin or pos-17
    external_order_id: str
    amount_fen: int
    currency: str
    items: tuple[Item, ...]
    receiver: Receiver

    @property
    def body_hash(self) -> bytes:
        parts = (self.amount_fen, self.currency, [asdict(item) for item in self.items], asdict(self.receiver))
        return hashlib.sha256(orjson.dumps(parts)).digest()


class ReservationDiffers(Exception):
    """The shop used an id again for another order. Nothing has changed."""

    def __init__(self, order_no: str) -> None:
        super().__init__(order_no)
        self.order_no = order_no


async def reserve(
    conn: Connection, wanted: Reservation, *, now: datetime, patience: Patience = PATIENCE
) -> tuple[str, bool]:
    """The order_no of the shop's order, and whether it is new. The same wish always gets the same number.

    Version 1 is a change like every other: logged, claimed in the inbox, and published. Raises ReservationDiffers.
    """
    async with conn.transaction():
        order_no = new_order_no(now)
        mine = {"source": wanted.source, "external_order_id": wanted.external_order_id}
        if not await store.reserve(conn, **mine, order_no=order_no, body_hash=wanted.body_hash):
            order_no, body_hash = await store.reserved(conn, **mine)
            if body_hash != wanted.body_hash:
                raise ReservationDiffers(order_no)
            return order_no, False
        event_id = f"{wanted.source}:{wanted.external_order_id}:reserved"
        await inbox.claim(conn, [(order_no, event_id)])
        await store.create_order(
            conn,
            order_no=order_no,
            amount_fen=wanted.amount_fen,
            currency=wanted.currency,
            **mine,
            items=orjson.dumps(wanted.items).decode(),
            receiver=orjson.dumps(wanted.receiver).decode(),
            now=now,
        )
        await parts.set_timers(conn, [Timer(order_no, Kind.EXPIRE, now + patience.unpaid)])
        traceparent = current_traceparent()
        await store.log_reservation(
            conn, order_no=order_no, event_id=event_id, actor=wanted.source, traceparent=traceparent, now=now
        )
        changed = OrderChanged(
            order_no=order_no,
            version=1,
            from_=None,
            to=Status.PENDING,
            cause=Cause(event_id=event_id, type="reserve"),
            at=now,
            actor=wanted.source,
            amount_fen=wanted.amount_fen,
        )
        await outbox.stage(conn, [outbox.Staged(changed, f"{order_no}:1", now, traceparent)])
        return order_no, True
