"""What three parties say of the campaign's payments afterwards, and whether they agree."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from orderloop_lab.invariants.callbacks import AUTHENTIC, read_notice
from orderloop_lab.system import Lab

from .payments_plan import Plan, digest

_ORDERS = """
    select o.order_no, o.external_order_id, o.status,
           (select coalesce(sum(p.amount_fen), 0)::bigint from payment p where p.order_no = o.order_no and p.applied)
               as paid_fen,
           (select count(*) from order_log l where l.order_no = o.order_no and l.event_id like 'wechat:%:paid')
               as applications
    from orders o where o.source = $1
"""
_REMEMBERED = """
    select event_id, order_no from callback_memory where order_no = any($1) and event_id like 'wechat:%:paid'
"""
_ACCEPTED = """
    select event_id, count(*) as times
    from callback_log, unnest(event_ids) as event_id
    where verdict = 'accepted' and order_nos[1] = any($1) and channel = 'wechat' group by event_id
"""


@dataclass(frozen=True, slots=True)
class Order:
    """As order-core has it."""

    external_order_id: str
    status: str
    paid_fen: int
    applications: int  # how often a payment stands in its log


@dataclass(frozen=True, slots=True)
class Books:
    orders: Mapping[str, Order]  # by order_no, as all below
    transactions: Mapping[str, int]  # fen, paid at the channel
    told: Mapping[str, str]  # event id -> order_no, of the channel's own notices
    attempts: Counter[tuple[str, bool]]  # how they were sent, and whether they were answered 2xx
    remembered: Mapping[str, str]  # event id -> order_no, payment-callback's memory
    accepted: Mapping[str, int]  # event id -> how often its log says that it was news

    @property
    def finals(self) -> list[tuple[str, str, int, int]]:
        """What every order came to, without anything that another run would name differently."""
        return sorted((o.external_order_id, o.status, o.paid_fen, o.applications) for o in self.orders.values())

    @property
    def digest(self) -> str:
        return digest(self.finals)

    @property
    def figures(self) -> dict[str, int]:
        sent: Counter[str] = Counter()
        for (manner, _), count in self.attempts.items():
            sent[manner] += count
        authentic = sum(sent[manner] for manner in AUTHENTIC)
        return {
            "orders reserved": len(self.orders),
            "paid at WeChat": len(self.transactions),
            "paid at order-core": sum(order.status == "paid" for order in self.orders.values()),
            "callbacks sent, authentic": authentic,
            "… of these answered 2xx": sum(self.attempts[manner, True] for manner in AUTHENTIC),
            "callbacks lost on the way": sent["lost"],
            "probes, forgeries, damaged": sum(sent.values()) - authentic - sent["lost"],
            "facts remembered by payment-callback": len(self.remembered),
            "lost": len(self.transactions.keys() - {no for no, order in self.orders.items() if order.applications}),
            "applied twice": sum(order.applications > 1 for order in self.orders.values()),
            "forged and accepted": sum(
                count for (manner, fine), count in self.attempts.items() if fine and manner not in AUTHENTIC
            )
            + len(self.remembered.keys() - self.told.keys()),
        }

    def violations(self, plan: Plan) -> Iterator[str]:
        yield from self._of_the_plan(plan)
        yield from self._between_channel_and_callback()
        yield from self._between_channel_and_orders()

    def _of_the_plan(self, plan: Plan) -> Iterator[str]:
        ended = {order.external_order_id: order for order in self.orders.values()}
        for payment in plan.payments:
            order = ended.get(payment.external_order_id)
            wanted = ("paid", payment.amount_fen, 1) if payment.paid else ("pending", 0, 0)
            if order is None:
                yield f"shop order {payment.external_order_id} was never reserved"
            elif (order.status, order.paid_fen, order.applications) != wanted:
                yield (
                    f"shop order {payment.external_order_id} is {order.status} with {order.paid_fen} fen by "
                    f"{order.applications} payments, planned was {wanted[0]} with {wanted[1]}"
                )

    def _between_channel_and_callback(self) -> Iterator[str]:
        for event_id in sorted(self.told.keys() - self.remembered.keys()):
            yield f"order {self.told[event_id]}: lost: {event_id} was told, payment-callback does not remember it"
        for event_id in sorted(self.remembered.keys() - self.told.keys()):
            yield f"order {self.remembered[event_id]}: forged: {event_id} is remembered, the channel never told it"
        for event_id in sorted(self.told.keys() | self.accepted.keys()):
            if (times := self.accepted.get(event_id, 0)) != 1:
                yield f"{event_id} was logged as news {times} times"
        for (manner, fine), count in sorted(self.attempts.items()):
            if fine and manner not in AUTHENTIC:
                yield f"{count} callbacks were {manner}, and answered 2xx"

    def _between_channel_and_orders(self) -> Iterator[str]:
        for order_no in sorted(self.transactions.keys() | self.orders.keys()):
            order = self.orders.get(order_no)
            there, here = self.transactions.get(order_no, 0), order.paid_fen if order else 0
            if there != here:
                yield f"order {order_no}: {there} fen were paid at the channel, {here} are applied here"
            if order and order.applications > 1:
                yield f"order {order_no}: its payment is applied {order.applications} times"


async def read(lab: Lab, source: str) -> Books:
    """The books on the orders of one source, once nothing moves any more."""
    core, callback = await lab.connect("order_core"), await lab.connect("payment_callback")
    try:
        orders = {
            row["order_no"]: Order(row["external_order_id"], row["status"], row["paid_fen"], row["applications"])
            for row in await core.fetch(_ORDERS, source)
        }
        ours = list(orders)
        remembered = {row["event_id"]: row["order_no"] for row in await callback.fetch(_REMEMBERED, ours)}
        accepted = {row["event_id"]: row["times"] for row in await callback.fetch(_ACCEPTED, ours)}
    finally:
        await core.close()
        await callback.close()
    ledger = await _ledger(lab)
    told = {
        event_id: notice["about"]
        for notice in ledger["notices"]
        if notice["about"] in orders
        for event_id in read_notice(notice["plaintext"]).event_ids
    }
    return Books(
        orders=orders,
        transactions={
            paid["out_trade_no"]: paid["amount"]["total"]
            for paid in ledger["transactions"]
            if paid["out_trade_no"] in orders
        },
        told=told,
        attempts=Counter(
            (attempt["manner"], attempt["status"] is not None and 200 <= attempt["status"] < 300)
            for attempt in ledger["attempts"]
            if attempt["about"] in orders
        ),
        remembered=remembered,
        accepted=accepted,
    )


async def _ledger(lab: Lab) -> Any:
    async with httpx.AsyncClient(timeout=120, trust_env=False) as http:
        return (await http.get(f"{lab.urls['wechat']}/sim/ledger")).raise_for_status().json()
