"""The invariant between the house and the payment channels' own ledgers."""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orderloop.ids import is_order_no

from .evidence import CHANNELS, Evidence
from .registry import invariant

Ledger = Mapping[str, Any]

# How a channel sends what is its own and unharmed; every other manner is to be refused.
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
    CHANNELS,
    uses=("wechat", "alipay", "order_core"),
)
async def answers_are_kept(evidence: Evidence) -> AsyncIterator[str]:
    for channel in _CHANNELS:
        if channel.name in evidence.after:
            async for sentence in _unstored(evidence, channel, evidence.before[channel.name]):
                yield sentence
            async for sentence in _effects_of_refused(evidence, channel, evidence.after[channel.name]):
                yield sentence


async def _unstored(evidence: Evidence, channel: "Channel", ledger: Ledger) -> AsyncIterator[str]:
    """From the ledger before the snapshot: what was answered by then was committed by then."""
    told = channel.notices(ledger)
    acknowledged: dict[str, Told] = {}
    for attempt in ledger["attempts"]:
        notice_id = attempt[channel.notice_id]
        if channel.answer(attempt) == 2:
            if attempt["manner"] not in AUTHENTIC:
                yield (
                    f"order {attempt['about']}: attempt {attempt['attempt']} of notice {notice_id} was "
                    f"{attempt['manner']}, and answered {attempt['status']}"
                )
            elif notice_id in told:
                acknowledged[notice_id] = told[notice_id]
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


async def _effects_of_refused(evidence: Evidence, channel: "Channel", ledger: Ledger) -> AsyncIterator[str]:
    """From the ledger after the snapshots: every attempt is written there before it is sent."""
    notices = channel.notices(ledger)
    nothing = Told(frozenset(), frozenset(), frozenset(), echo=False)  # a single probe or forgery has no notice
    refused: set[str] = set()
    possible: set[str] = set()
    for attempt in ledger["attempts"]:
        told = notices.get(attempt[channel.notice_id], nothing)
        if attempt["manner"] in AUTHENTIC and channel.answer(attempt) != 4:
            possible |= told.event_ids  # answered 5xx or not at all may still have been committed
        elif attempt["manner"] != _NEVER_SENT:
            refused |= {attempt["about"], *told.order_nos}
    orders = sorted(refused)
    evidenced = {row["event_id"] async for row in evidence.rows("payment_callback", "evidenced", order_nos=orders)}
    places = (("payment_callback", "facts_of", possible), ("order_core", "payments_of", possible | evidenced))
    for database, query, allowed in places:
        async for row in evidence.rows(database, query, order_nos=orders):
            if row["event_id"] not in allowed and row["event_id"].startswith(f"{channel.name}:"):
                yield (
                    f"order {row['order_no']}: {row['event_id']} stands in {row['place']}, "
                    "and only refused notices have told it"
                )


def read_notice(plaintext: Mapping[str, Any]) -> Told:
    """What a right merchant reads in WeChat Pay's; written once more, apart from payment-callback's own reading."""
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


def read_form(form: Mapping[str, Any]) -> Told:
    """The same of Alipay's. What a refund gave back stands in none of them: its number is only a question."""
    order_no, trade_no = str(form["out_trade_no"]), str(form["trade_no"])
    paid = form["trade_status"] in {"TRADE_SUCCESS", "TRADE_FINISHED"} and is_order_no(order_no)
    facts = {f"alipay:{trade_no}:paid"} if paid else set[str]()
    return Told(frozenset(facts), frozenset({order_no}), frozenset({trade_no}), echo=False)


@dataclass(frozen=True, slots=True)
class Channel:
    """How a channel's ledger tells what happened."""

    name: str
    notice_id: str  # the field of a notice's id,
    content: str  # and of what it says
    read: Callable[[Mapping[str, Any]], Told]
    word: str | None  # what acknowledges, beside a 2xx

    def notices(self, ledger: Ledger) -> dict[str, Told]:
        return {notice[self.notice_id]: self.read(notice[self.content]) for notice in ledger["notices"]}

    def answer(self, attempt: Mapping[str, Any]) -> int | None:
        """The hundreds of the status, None without an answer; a 2xx without the channel's word is none."""
        if attempt["status"] is None:
            return None
        hundreds: int = attempt["status"] // 100
        return None if hundreds == 2 and self.word not in {None, attempt["answer"]} else hundreds


_CHANNELS = (
    Channel("wechat", "notice_id", "plaintext", read_notice, None),
    Channel("alipay", "notify_id", "form", read_form, "success"),
)
