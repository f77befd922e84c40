"""Invariants between the house and the ledgers of the bank and the warehouse."""

from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Mapping
from typing import Any

from .evidence import Evidence
from .registry import invariant

Ledger = Mapping[str, Any]


@invariant(
    "I11",
    "nobody is paid twice, and the bank, settlement and order-core agree on who got what",
    "bank",
    uses=("order_core", "settlement"),
)
async def nobody_is_paid_twice(evidence: Evidence) -> AsyncIterator[str]:
    paid: Counter[str] = Counter()
    for row in evidence.after["bank"]["paid"]:
        paid[row["order_no"]] += row["amount_fen"]
        if row["payouts"] > 1:
            yield (
                f"order {row['order_no']}: the bank paid {row['receiver']} {row['payouts']} times, "
                f"{row['amount_fen']} fen in all"
            )
    # The bank is asked after the snapshot: what an order was completed by had arrived before.
    async for row in evidence.rows("order_core", "completions"):
        if row["status"] == "SUCCESS" and paid[row["order_no"]] != row["amount_fen"]:
            yield (
                f"order {row['order_no']}: it was completed by {row['amount_fen']} fen, "
                f"the bank paid {paid[row['order_no']]}"
            )
    if "settlement" in evidence.snapshots:
        async for sentence in _disagreements(evidence):
            yield sentence


async def _disagreements(evidence: Evidence) -> AsyncIterator[str]:
    """Between settlement's payouts and the bank's, by reference and receiver."""
    now = _arrived(evidence.after["bank"])
    # The bank before the snapshot: whatever it had paid out by then was written down here before it was asked.
    then = _arrived(evidence.before["bank"])
    settled: defaultdict[tuple[str, str], int] = defaultdict(int)
    async for row in evidence.rows("settlement", "payouts"):
        key = (row["order_no"], row["reference"], row["receiver"])
        what = f"order {row['order_no']}: {row['receiver']} of {row['reference']}"
        if row["status"] == "success" and now.get(key) != row["amount_fen"]:
            yield f"{what} has {row['amount_fen']} fen here, {now.get(key, 0)} at the bank"
        if row["status"] == "failed" and key in now:
            yield f"{what} failed here, and got {now[key]} fen at the bank"
        if row["status"] == "success":
            settled[row["order_no"], row["instruction_id"]] += row["amount_fen"]
        then.pop(key, None)
    for (order_no, reference, receiver), amount_fen in sorted(then.items()):
        yield f"order {order_no}: the bank paid {receiver} {amount_fen} fen by {reference}, unknown to settlement"
    async for row in evidence.rows("settlement", "settlements"):
        sum_fen = settled[row["order_no"], row["instruction_id"]]
        if row["status"] == "success" and sum_fen != row["amount_fen"]:
            what = f"order {row['order_no']}: {row['instruction_id']} succeeded"
            yield f"{what} with {row['amount_fen']} fen, its payouts with {sum_fen}"


def _arrived(ledger: Ledger) -> dict[tuple[str, str, str], int]:
    return {
        (instruction["order_no"], instruction["instruction_id"], payout["receiver"]): payout["amount_fen"]
        for instruction in ledger["instructions"]
        for payout in instruction["payouts"]
        if payout["status"] == "SUCCESS"
    }


@invariant("I13", "the warehouse has at most one active shipment per order, and one per shipment id", "wms")
async def nothing_is_shipped_twice(evidence: Evidence) -> AsyncIterator[str]:
    holders: defaultdict[str, list[str]] = defaultdict(list)
    for order_no, shipment_ids in sorted(evidence.after["wms"].items()):
        if len(shipment_ids) > 1:
            yield f"order {order_no}: {len(shipment_ids)} shipments are active: {', '.join(shipment_ids)}"
        for shipment_id in set(shipment_ids):
            holders[shipment_id].append(order_no)
    for shipment_id, order_nos in sorted(holders.items()):
        if len(order_nos) > 1:
            yield f"orders {', '.join(order_nos)}: shipment {shipment_id} is active for each"
