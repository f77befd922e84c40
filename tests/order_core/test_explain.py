"""An order's story is told whole, in both languages, and without personal data."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import orjson
import pytest

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


def test_every_status_can_be_explained_in_both_languages() -> None:
    for table in (words.STATUSES, words.WAITS, words.CAN):
        assert set(table) == set(Status)
        assert all(set(one) == {"zh", "en"} for one in table.values())


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
