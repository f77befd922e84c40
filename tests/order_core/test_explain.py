"""An order's story is told whole, in both languages, and without personal data."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import orjson
import pytest
from msgspec.structs import replace

from order_core import words
from order_core.app import explained
from order_core.apply import apply
from order_core.explain import explain
from order_core.money import RefundState
from order_core.orders import Incoming, InstructionState
from order_core.repairs import REPAIRS, Repair
from order_core.states import Event, Status
from order_core.timeline import timeline
from order_core.words import Language
from orderloop.events import ParcelStatus, SettlementStatus
from tests.support.databases import Database
from tests.support.orders import NOW, confirmed, labelled, paid, refund_asked, reserved, settled, shipped, tracked


async def told(conn: asyncpg.Connection, *events: Incoming) -> None:
    for event in events:
        async with conn.transaction():
            await apply(conn, [event], now=NOW)


@pytest.mark.parametrize(
    ("language", "says"),
    [
        (
            "en",
            [
                "waiting for the settlement (pending_settlement)",
                "it waits for: a person: the bank has refused",
                "settlement failed, 88.00 CNY at risk",
                "; resettle, request refund, dismiss",
                "payment wechat 4200001: 99.00 CNY, applied",
                "11.00 CNY, asked",
            ],
        ),
        ("zh", ["待分账结算", "银行已拒绝分账", "分账被拒, 88.00 CNY 待处理", "重新分账", "已签收", "+0800"]),
    ],
)
async def test_an_orders_story_says_where_it_is_what_it_waits_for_and_what_can_be_done(
    conn: asyncpg.Connection, language: Language, says: list[str]
) -> None:
    order_no = await reserved(conn)
    await told(conn, paid(order_no), shipped(order_no), labelled(order_no))
    await told(conn, refund_asked(order_no, 1100), tracked(order_no), confirmed(order_no))
    await told(conn, settled(order_no, SettlementStatus.FAILED, amount_fen=8800))

    story = await timeline(conn, order_no)
    assert story is not None
    text = explain(story, now=datetime.now(UTC) + timedelta(hours=5), language=language)

    assert order_no in text
    assert [word for word in says if word not in text] == []
    assert "张三" not in text
    assert "13800000000" not in text
    assert orjson.dumps(story, default=str)


# Where the order goes no further before somebody has acted. Everywhere else an open anomaly is one the order has left
# behind, or one that does not concern its way.
STOPS = {
    Status.PENDING: {"callback_missing", "amount_mismatch", "currency_mismatch"},
    Status.SHIPPING: {"shipment_refused"},
    Status.SHIPPED: {"delivery_incomplete"},
    Status.PENDING_SETTLEMENT: {
        "settlement_failed",
        "settlement_differs",
        "bank_forgot_instruction",
        "settlement_never_arrived",
    },
    Status.REFUNDING: {"refund_refused"},
}
# Nothing but a person touches these any more.
ENDS = {Status.COMPLETED, Status.CLOSED, Status.REFUNDED}


def _waits_for(status: Status, *kinds: str, language: Language = "en") -> str:
    at = {"created_at": NOW, "completed_at": None}
    story: dict[str, Any] = {"order": {"order_no": "1", "status": status, "amount_fen": 1, "currency": "CNY", **at}}
    story |= dict.fromkeys(("changes", "payments", "parcels", "refunds", "settlements", "timers", "waiting"), ())
    raised = {"id": 1, "money_fen": 0, "raised_at": NOW - timedelta(days=2), "resolved_at": None, "repairs": []}
    story["anomalies"] = [{"kind": kind, **raised} for kind in kinds]
    return explain(story, now=NOW, language=language).splitlines()[1]


@pytest.mark.parametrize("status", Status)
def test_an_open_anomaly_is_what_an_order_waits_for_exactly_where_it_stops_the_order(status: Status) -> None:
    alone = _waits_for(status)
    assert ": nothing; since" in alone if status in ENDS else "a person" not in alone
    for kind in words.ANOMALIES:
        waits = _waits_for(status, kind)
        if status in ENDS or kind in STOPS.get(status, ()):
            assert waits.startswith("it waits for: a person"), (kind, waits)
            assert "(−2 d)" in waits
            assert _waits_for(status, kind, language="zh") != _waits_for(status, language="zh")
        else:
            assert waits == alone, kind


def test_an_anomaly_that_the_order_has_left_behind_does_not_hide_the_one_that_stops_it() -> None:
    assert "the bank has refused" in _waits_for(Status.PENDING_SETTLEMENT, "delivery_incomplete", "settlement_failed")
    assert "revived or given back" in _waits_for(Status.CLOSED, "callback_missing", "paid_after_close")


async def test_what_came_early_is_kept_since_it_came_and_not_since_it_happened(conn: asyncpg.Connection) -> None:
    order_no = await reserved(conn)
    await told(conn, replace(labelled(order_no), occurred_at=NOW - timedelta(days=9)))
    story = await timeline(conn, order_no)
    assert story is not None
    [early] = story["waiting"]
    assert early["since"] >= NOW


def test_every_status_can_be_explained_in_both_languages() -> None:
    for table in (words.STATUSES, words.WAITS, words.CAN):
        assert set(table) == set(Status)
        assert all(set(one) == {"zh", "en"} for one in table.values())
    assert {kind for _, kind in words.WAITS_FOR_A_PERSON} <= set(words.ANOMALIES)


def test_every_word_of_the_code_has_a_chinese_one() -> None:
    assert set(words.EVENTS) == set(Event)
    assert set(words.REPAIRS) == set(Repair)
    assert (set(words.PARCELS), set(words.REFUNDS)) == (set(ParcelStatus), set(RefundState))
    assert set(words.SETTLEMENTS) == set(InstructionState)
    page = (Path(__file__).parents[2] / "docs" / "anomalies.md").read_text(encoding="utf-8")
    assert set(words.ANOMALIES) == set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
    assert set(REPAIRS) <= set(words.ANOMALIES)


async def test_programs_get_the_story_as_json(
    conn: asyncpg.Connection, order_core: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    order_no = await reserved(conn)
    await told(conn, paid(order_no, "1"), paid(order_no, "2"))
    monkeypatch.setenv("ORDERLOOP_POSTGRES_URL", order_core.app_url)

    story = orjson.loads(await explained(order_no, "en", as_json=True) or "")

    assert [change["event"] for change in story["changes"]] == ["reserved", "payment_succeeded"]
    assert [anomaly["repairs"] for anomaly in story["anomalies"]] == [["link_to_order", "request_refund", "dismiss"]]
