"""Invariants between the house and the outside world's own ledgers."""

from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orderloop.ids import is_order_no

from .evidence import Evidence
from .registry import invariant

Ledger = Mapping[str, Any]

# How the channel sends what is its own and unharmed; every other manner is to be refused.
AUTHENTIC = frozenset({"genuine", "answer_lost"})
_NEVER_SENT = "lost"


@dataclass(frozen=True, slots=True)
class Told:
    """What one notice says: which facts of our orders, or what else."""

    event_ids: frozenset[str]
    order_nos: frozenset[str]
    transaction_ids: frozenset[str]
    echo: bool


@invariant(
    "I6",
    "every callback answered 2xx is stored, none that was refused changed anything",
    "payment_callback",
    "wechat",
    uses=("order_core",),
)
async def answers_are_kept(evidence: Evidence) -> AsyncIterator[str]:
    async for sentence in _unstored(evidence, evidence.before["wechat"]):
        yield sentence
    async for sentence in _effects_of_refused(evidence, evidence.after["wechat"]):
        yield sentence


async def _unstored(evidence: Evidence, ledger: Ledger) -> AsyncIterator[str]:
    """From the ledger before the snapshot: what was answered by then was committed by then."""
    told = {notice["notice_id"]: read_notice(notice["plaintext"]) for notice in ledger["notices"]}
    acknowledged: dict[str, Told] = {}
    for attempt in ledger["attempts"]:
        if _answer(attempt) == 2:
            if attempt["manner"] not in AUTHENTIC:
                yield (
                    f"order {attempt['about']}: attempt {attempt['attempt']} of notice {attempt['notice_id']} was "
                    f"{attempt['manner']}, and answered {attempt['status']}"
                )
            elif attempt["notice_id"] in told:
                acknowledged[attempt["notice_id"]] = told[attempt["notice_id"]]
    wanted = sorted({event_id for notice in acknowledged.values() for event_id in notice.event_ids})
    known = {row["event_id"] async for row in evidence.rows("payment_callback", "known_facts", event_ids=wanted)}
    others = {notice_id: notice for notice_id, notice in acknowledged.items() if not notice.event_ids}
    logged = await _logged(evidence, list(others.values()))
    for notice_id, notice in acknowledged.items():
        what = f"order {', '.join(sorted(notice.order_nos))}: notice {notice_id} was answered 2xx"
        for event_id in sorted(notice.event_ids - known):
            yield f"{what}, and {event_id} is not stored"
        if notice_id in others and not any(_about(notice, one) for one in logged):
            yield f"{what}, and is not in the log"


async def _logged(evidence: Evidence, notices: Sequence[Told]) -> list[Told]:
    """Log rows that one of these notices may have become."""
    if not notices:
        return []
    asked = {
        "order_nos": sorted({order_no for notice in notices for order_no in notice.order_nos}),
        "transaction_ids": sorted({one for notice in notices for one in notice.transaction_ids}),
        "shapes": ["echo"],
    }
    return [
        Told(frozenset(), frozenset(row["order_nos"]), frozenset(row["transaction_ids"]), row["shape"] == "echo")
        async for row in evidence.rows("payment_callback", "logged_notices", **asked)
    ]


def _about(notice: Told, logged: Told) -> bool:
    return bool(
        notice.order_nos & logged.order_nos
        or notice.transaction_ids & logged.transaction_ids
        or (notice.echo and logged.echo)
    )


async def _effects_of_refused(evidence: Evidence, ledger: Ledger) -> AsyncIterator[str]:
    """From the ledger after the snapshots: every attempt is written there before it is sent."""
    notices = {notice["notice_id"]: read_notice(notice["plaintext"]) for notice in ledger["notices"]}
    nothing = Told(frozenset(), frozenset(), frozenset(), echo=False)  # a single probe or forgery has no notice
    refused: set[str] = set()
    possible: set[str] = set()
    for attempt in ledger["attempts"]:
        told = notices.get(attempt["notice_id"], nothing)
        if attempt["manner"] in AUTHENTIC and _answer(attempt) != 4:
            possible |= told.event_ids  # answered 5xx or not at all may still have been committed
        elif attempt["manner"] != _NEVER_SENT:
            refused |= {attempt["about"], *told.order_nos}
    orders = sorted(refused)
    evidenced = {row["event_id"] async for row in evidence.rows("payment_callback", "evidenced", order_nos=orders)}
    places = (("payment_callback", "facts_of", possible), ("order_core", "payments_of", possible | evidenced))
    for database, query, allowed in places:
        async for row in evidence.rows(database, query, order_nos=orders):
            if row["event_id"] not in allowed and row["event_id"].startswith("wechat:"):
                yield (
                    f"order {row['order_no']}: {row['event_id']} stands in {row['place']}, "
                    "and only refused notices have told it"
                )


def _answer(attempt: Mapping[str, Any]) -> int | None:
    """The hundreds of the status, None without an answer."""
    return attempt["status"] // 100 if attempt["status"] is not None else None


def read_notice(plaintext: Mapping[str, Any]) -> Told:
    """What a right merchant reads in a notice; written here once more, apart from payment-callback's own reading."""
    parts = plaintext.get("sub_orders") or [plaintext]
    orders = frozenset(str(part["out_trade_no"]) for part in parts if "out_trade_no" in part)
    transactions = frozenset(str(part["transaction_id"]) for part in parts if "transaction_id" in part)
    return Told(frozenset(_facts(plaintext, parts)), orders, transactions, "echo_message" in plaintext)


def _facts(plaintext: Mapping[str, Any], parts: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if "refund_status" in plaintext:
        # without an amount it is no fact yet, but a question
        if is_order_no(str(plaintext.get("out_trade_no"))) and plaintext.get("amount"):
            status = str(plaintext["refund_status"]).lower()
            yield f"wechat:{plaintext.get('refund_id')}:{'refunded' if status == 'success' else status}"
        return
    for part in parts:
        if part.get("trade_state") == "SUCCESS" and is_order_no(str(part.get("out_trade_no"))):
            yield f"wechat:{part.get('transaction_id')}:paid"


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
