"""An order's story in sentences, for whoever has the customer on the telephone: what happened, and what is next."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta, timezone
from enum import StrEnum
from typing import Any

from orderloop.money import yuan

from .states import Status
from .words import (
    CAN,
    NOTHING,
    PARCELS,
    REFUNDS,
    SETTLEMENTS,
    STATUSES,
    TIMERS,
    WAITS,
    WAITS_AT_THE_DESK,
    WAITS_FOR_A_PERSON,
    WORDS,
    Language,
    named,
)

# Customer service looks at a clock in China, everybody else at logs.
_ZONES: Mapping[Language, timezone] = {"zh": timezone(timedelta(hours=8)), "en": UTC}


def explain(story: Mapping[str, Any], *, now: datetime, language: Language) -> str:
    """`story` is what `timeline` returns. No personal data is in it, so none comes out."""
    return "\n".join(_Teller(story, now.astimezone(_ZONES[language]), language).lines()) + "\n"


class _Teller:
    def __init__(self, story: Mapping[str, Any], now: datetime, language: Language) -> None:
        self._story = story
        self._now = now
        self._language: Language = language
        self._currency = story["order"]["currency"]
        self._open = [anomaly for anomaly in story["anomalies"] if anomaly["resolved_at"] is None]

    def lines(self) -> Iterator[str]:
        order, changes = self._story["order"], self._story["changes"]
        status = Status(order["status"])
        waits, since = self._waits(status)
        yield (
            f"{self._say('order')} {order['order_no']}: {STATUSES[status][self._language]} ({status}), "
            f"{self._money(order['amount_fen'])}"
        )
        yield f"{self._say('waits')}: {waits}; {self._say('since')} {self._when(since)}"
        yield f"{self._say('can')}: {CAN[status][self._language]}"
        yield from self._desk()
        yield from self._parts()
        yield from self._to_come()
        yield f"{self._say('happened')}:"
        yield from (self._change(change) for change in changes)
        if not changes:
            yield f"  {self._say('gone')}"

    def _waits(self, status: Status) -> tuple[str, datetime]:
        """What for, and since when. For a person only where nothing else would move the order on."""
        for anomaly in self._open:
            if (words := WAITS_FOR_A_PERSON.get((status, anomaly["kind"]))) is not None:
                return words[self._language], anomaly["raised_at"]
        if self._open and WAITS[status] is NOTHING:
            return WAITS_AT_THE_DESK[self._language], self._open[0]["raised_at"]
        # Scans and notes are versions too: it has stood here since it last moved.
        moved = (c["recorded_at"] for c in reversed(self._story["changes"]) if c["from"] != c["to"])
        order = self._story["order"]
        return WAITS[status][self._language], next(moved, order["completed_at"] or order["created_at"])

    def _desk(self) -> Iterator[str]:
        for anomaly in self._open:
            repairs = ", ".join(named(repair, self._language) for repair in anomaly["repairs"])
            what = f"{self._say('desk')}: #{anomaly['id']} {named(anomaly['kind'], self._language)}"
            risk = f"{self._money(anomaly['money_fen'])} {self._say('risk')}"
            yield f"{what}, {risk}, {self._when(anomaly['raised_at'])}; {repairs}"

    def _parts(self) -> Iterator[str]:
        for payment in self._story["payments"]:
            what = f"{self._say('payment')} {payment['channel']} {payment['transaction_id']}"
            whose = self._say("applied" if payment["applied"] else "beside")
            yield f"{what}: {self._money(payment['amount_fen'])}, {whose}"
        for parcel in self._story["parcels"]:
            what = f"{self._say('parcel')} {parcel['express_code']} {parcel['waybill_no']}"
            yield f"{what}: {self._state(PARCELS, parcel['status'])}, {self._when(parcel['at'])}"
        for refund in self._story["refunds"]:
            what = f"{self._say('refund')} {refund['out_refund_no']}"
            yield f"{what}: {self._money(refund['amount_fen'])}, {self._state(REFUNDS, refund['state'])}"
        for settlement in self._story["settlements"]:
            what = f"{self._say('settlement')} {settlement['instruction_id']} ({settlement['asked']})"
            yield f"{what}: {self._money(settlement['amount_fen'])}, {self._state(SETTLEMENTS, settlement['state'])}"

    def _to_come(self) -> Iterator[str]:
        for timer in self._story["timers"]:
            yield f"{self._say('next')} {self._when(timer['due_at'])}: {TIMERS[timer['kind']][self._language]}"
        for event in self._story["waiting"]:
            yield f"{self._say('early')}: {event['type']} ({event['event_id']}), {self._when(event['since'])}"

    def _change(self, change: Mapping[str, Any]) -> str:
        to = STATUSES[Status(change["to"])][self._language]
        trace = f", {self._say('trace')} {change['trace_id']}" if change["trace_id"] else ""
        where = to if change["from"] == change["to"] else f"→ {to}"
        what = f"{where}  {named(change['event'], self._language)} ({change['actor']}{trace})"
        return f"  {change['version']:>3}  {self._moment(change['recorded_at'])}  {what}"

    def _say(self, word: str) -> str:
        return WORDS[word][self._language]

    def _money(self, fen: int) -> str:
        return f"{yuan(fen)} {self._currency}"

    def _state(self, words: Mapping[Any, str], state: StrEnum) -> str:
        return words[state] if self._language == "zh" else state.replace("_", " ")

    def _moment(self, at: datetime) -> str:
        return f"{at.astimezone(self._now.tzinfo):%Y-%m-%d %H:%M:%S%z}"

    def _when(self, at: datetime) -> str:
        """The moment and how far it is, such as "2026-01-22 09:00:00+0000 (−3 h)"."""
        away = at - self._now
        sign, away = ("−", -away) if away < timedelta(0) else ("+", away)
        for unit, length in (("d", timedelta(days=1)), ("h", timedelta(hours=1)), ("min", timedelta(minutes=1))):
            if away >= length:
                return f"{self._moment(at)} ({sign}{away // length} {unit})"
        return f"{self._moment(at)} ({sign}{int(away.total_seconds())} s)"
