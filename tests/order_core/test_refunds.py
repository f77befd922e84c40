"""Money back: what moves an order, what only stands in its log, and what the database itself refuses."""

from pathlib import Path

import asyncpg
import orjson
import pytest

import order_core
from order_core.apply import CommandRefused, Outcomes, apply
from order_core.orders import Incoming
from orderloop.events import RefundRequested, SettlementRequested, SettlementStatus
from tests.support.databases import Database
from tests.support.orders import (
    AMOUNT,
    NOW,
    close_asked,
    close_told,
    confirmed,
    labelled,
    paid,
    refund_asked,
    refund_told,
    reserved,
    resettled,
    settled,
    shipped,
    tracked,
)

CLAIMING = Path(order_core.__file__).parent / "migrations/0007_what_goes_back_is_claimed.sql"


async def applied(conn: asyncpg.Connection, *events: Incoming) -> Outcomes:
    """Commands are batches of their own, as they are over HTTP."""
    async with conn.transaction():
        return await apply(conn, events, now=NOW)


async def status(conn: asyncpg.Connection, order_no: str) -> str:
    return await conn.fetchval("select status from orders where order_no = $1", order_no)


async def open_kinds(conn: asyncpg.Connection) -> list[str]:
    rows = await conn.fetch("select kind from anomaly where resolved_at is null order by kind")
    return [row["kind"] for row in rows]


async def published(conn: asyncpg.Connection, topic: str) -> list[bytes]:
    return [row["body"] for row in await conn.fetch("select body from outbox where topic = $1 order by id", topic)]


async def sums(conn: asyncpg.Connection) -> tuple[int, int]:
    row = await conn.fetchrow("select refunding_fen, refunded_fen from payment where applied")
    return row["refunding_fen"], row["refunded_fen"]


async def test_a_full_refund_moves_the_order_and_its_success_ends_it(conn: asyncpg.Connection) -> None:
    order_no = await reserved(conn)
    await applied(conn, paid(order_no))

    await applied(conn, refund_asked(order_no))
    assert await status(conn, order_no) == "refunding"
    [request] = [RefundRequested.decode(body) for body in await published(conn, RefundRequested.TOPIC)]
    assert (request.out_refund_no, request.refund_fen, request.total_fen) == (f"{order_no}_R1", AMOUNT, AMOUNT)
    assert request.mchid == "1900000001"
    assert await sums(conn) == (AMOUNT, 0)

    await applied(conn, refund_told(order_no), refund_told(order_no))
    assert await status(conn, order_no) == "refunded"
    assert await sums(conn) == (0, AMOUNT)
    assert await open_kinds(conn) == []


async def test_part_of_the_money_never_moves_an_order_until_the_rest_goes_back_too(conn: asyncpg.Connection) -> None:
    order_no = await reserved(conn)
    await applied(conn, paid(order_no), labelled(order_no))

    await applied(conn, refund_asked(order_no, 900, key="1"))
    await applied(conn, refund_told(order_no, 1, amount_fen=900))
    assert await status(conn, order_no) == "shipped"
    await applied(conn, refund_asked(order_no, AMOUNT - 900, key="2"))
    assert await status(conn, order_no) == "refunding"
    await applied(conn, refund_told(order_no, 2, amount_fen=AMOUNT - 900))

    assert await status(conn, order_no) == "refunded"


@pytest.mark.parametrize("word", ["ABNORMAL", "CLOSED"])
async def test_a_refund_that_fails_brings_the_order_back_and_calls_a_person(
    conn: asyncpg.Connection, word: str
) -> None:
    order_no = await reserved(conn)
    await applied(conn, paid(order_no), labelled(order_no))
    await applied(conn, refund_asked(order_no))

    await applied(conn, refund_told(order_no, 1, word))

    assert await status(conn, order_no) == "shipped"
    assert await open_kinds(conn) == ["refund_failed"]
    # what the channel holds and cannot deliver is neither settled nor refunded once more
    assert await sums(conn) == ((AMOUNT, 0) if word == "ABNORMAL" else (0, 0))


async def test_a_refund_that_failed_is_put_away_by_what_went_back_of_its_own_payment(conn: asyncpg.Connection) -> None:
    order_no = await reserved(conn)
    await applied(conn, paid(order_no, "1"), paid(order_no, "2"))
    await conn.execute("update anomaly set resolved_at = now()")
    await applied(conn, refund_asked(order_no, transaction=("wechat", "2"), key="1"))
    await applied(conn, refund_told(order_no, 1, "ABNORMAL", transaction_id="2"))

    await applied(conn, refund_asked(order_no, 900, key="2"))
    await applied(conn, refund_told(order_no, 2, "ABNORMAL", amount_fen=900, transaction_id="1"))
    await applied(conn, refund_asked(order_no, key="3"))
    await applied(conn, refund_told(order_no, 3, amount_fen=AMOUNT - 900, transaction_id="1"))
    assert await open_kinds(conn) == ["refund_failed"] * 2, "another part of the money is no remedy"
    await applied(conn, refund_told(order_no, 2, amount_fen=900, transaction_id="1"))
    assert await status(conn, order_no) == "refunded"
    assert await open_kinds(conn) == ["refund_failed"], "nor is another payment's"
    await applied(conn, refund_told(order_no, 1, transaction_id="2"))
    assert await open_kinds(conn) == []


async def test_an_abnormal_refund_that_succeeds_after_all_ends_the_order(conn: asyncpg.Connection) -> None:
    order_no = await reserved(conn)
    await applied(conn, paid(order_no))
    await applied(conn, refund_asked(order_no))
    await applied(conn, refund_told(order_no, 1, "ABNORMAL"))
    with pytest.raises(CommandRefused) as refusal:
        await applied(conn, refund_asked(order_no, key="2"))
    assert refusal.value.reason == "nothing-left-to-refund"

    await applied(conn, refund_told(order_no))

    assert await status(conn, order_no) == "refunded"
    assert await open_kinds(conn) == []


async def test_what_couriers_said_during_a_failed_refund_counts_afterwards(conn: asyncpg.Connection) -> None:
    order_no = await reserved(conn)
    await applied(conn, paid(order_no), shipped(order_no))
    await applied(conn, refund_asked(order_no))
    await applied(conn, labelled(order_no), tracked(order_no))
    assert await status(conn, order_no) == "refunding"

    await applied(conn, refund_told(order_no, 1, "CLOSED"))

    assert await status(conn, order_no) == "delivered"
    assert await conn.fetchval("select count(*) from timer where kind = 'confirm'") == 1
    events = await conn.fetch(
        "select event_id from order_log except select event_id from inbox where outcome = 'applied'"
    )
    assert events == []


async def test_only_what_is_left_settles(conn: asyncpg.Connection) -> None:
    order_no = await reserved(conn)
    await applied(conn, paid(order_no), labelled(order_no))
    await applied(conn, refund_asked(order_no, 900, key="1"))
    await applied(conn, refund_told(order_no, 1, amount_fen=900))
    await applied(conn, refund_asked(order_no, 1000, key="2"))  # on its way

    await applied(conn, confirmed(order_no))

    [request] = [SettlementRequested.decode(body) for body in await published(conn, SettlementRequested.TOPIC)]
    assert request.amount_fen == AMOUNT - 1900
    await applied(conn, settled(order_no, amount_fen=AMOUNT - 1900))
    assert await status(conn, order_no) == "completed"


async def test_a_refund_waits_while_the_bank_has_the_instruction_and_goes_out_with_its_success(
    conn: asyncpg.Connection,
) -> None:
    order_no = await reserved(conn)
    await applied(conn, paid(order_no), labelled(order_no))
    await applied(conn, confirmed(order_no))

    await applied(conn, refund_asked(order_no))
    assert await status(conn, order_no) == "pending_settlement"
    assert await published(conn, RefundRequested.TOPIC) == []
    await applied(conn, settled(order_no))

    log = await conn.fetch('select event, "to" from order_log order by version desc limit 3')
    assert [tuple(row) for row in log] == [
        ("refund_requested", "refunding"),
        ("settlement_succeeded", "completed"),
        ("refund_held", "pending_settlement"),
    ]
    assert len(await published(conn, RefundRequested.TOPIC)) == 1


@pytest.mark.parametrize("last_word", [SettlementStatus.SUCCESS, SettlementStatus.FAILED])
async def test_a_settled_order_gives_nothing_back_while_a_second_instruction_is_at_the_bank_and_does_afterwards(
    conn: asyncpg.Connection, last_word: SettlementStatus
) -> None:
    order_no = await reserved(conn)
    await applied(conn, paid(order_no), labelled(order_no))
    await applied(conn, confirmed(order_no))
    await applied(conn, settled(order_no, SettlementStatus.FAILED))
    await applied(conn, refund_asked(order_no, 900))
    await applied(conn, refund_told(order_no, amount_fen=900))
    await applied(conn, resettled(order_no))
    await applied(conn, settled(order_no))  # the first one after all

    with pytest.raises(CommandRefused) as refusal:
        await applied(conn, refund_asked(order_no, 100, key="2"))
    assert refusal.value.reason == "settlement-under-way"
    answer = settled(order_no, last_word, amount_fen=AMOUNT - 900, instruction=2)
    await applied(conn, answer, answer)
    await applied(conn, refund_asked(order_no, 100, key="2"))

    assert await status(conn, order_no) == "completed"
    assert "illegal_transition" in await open_kinds(conn)
    rows = await conn.fetch("select state from instruction order by instruction_id")
    assert [row["state"] for row in rows] == ["success", last_word.lower()]
    assert await conn.fetchval("select state from refund where out_refund_no like '%_R2'") == "asked"


async def test_two_refunds_that_waited_go_out_together_and_only_the_last_moves_the_order(
    conn: asyncpg.Connection,
) -> None:
    order_no = await reserved(conn)
    await applied(conn, paid(order_no), labelled(order_no))
    await applied(conn, confirmed(order_no))
    await applied(conn, refund_asked(order_no, 4900, key="1"))
    await applied(conn, refund_asked(order_no, 5000, key="2"))

    await applied(conn, settled(order_no, SettlementStatus.FAILED))

    assert await status(conn, order_no) == "refunding"
    assert await open_kinds(conn) == ["settlement_failed"]
    assert len(await published(conn, RefundRequested.TOPIC)) == 2


async def test_money_that_goes_both_ways_is_seen(conn: asyncpg.Connection) -> None:
    """The bank refused, the money went back, and then the bank says that it had paid after all."""
    order_no = await reserved(conn)
    await applied(conn, paid(order_no), labelled(order_no))
    await applied(conn, confirmed(order_no))
    await applied(conn, settled(order_no, SettlementStatus.FAILED))
    await applied(conn, refund_asked(order_no))

    await applied(conn, settled(order_no))

    assert await status(conn, order_no) == "refunding"
    assert await open_kinds(conn) == ["settled_and_refunded", "settlement_failed"]


async def test_the_refund_of_a_superfluous_payment_never_moves_a_good_order(conn: asyncpg.Connection) -> None:
    order_no = await reserved(conn)
    await applied(conn, paid(order_no, "1"), labelled(order_no), paid(order_no, "2"))

    await applied(conn, refund_asked(order_no, transaction=("wechat", "2")))
    await applied(conn, refund_told(order_no, transaction_id="2"))

    assert await status(conn, order_no) == "shipped"
    assert await sums(conn) == (0, 0)
    assert await conn.fetchval("select refunded_fen from payment where not applied") == AMOUNT


async def test_a_payment_after_the_closing_goes_back(conn: asyncpg.Connection) -> None:
    order_no = await reserved(conn)
    await applied(conn, close_asked(order_no))
    await applied(conn, close_told(order_no))
    await applied(conn, paid(order_no))
    assert await open_kinds(conn) == ["paid_after_close"]

    await applied(conn, refund_asked(order_no, transaction=("wechat", "4200001")))
    assert await status(conn, order_no) == "refunding"
    await applied(conn, refund_told(order_no, 1, "CLOSED"))
    assert await status(conn, order_no) == "closed"
    await applied(conn, refund_asked(order_no, transaction=("wechat", "4200001"), key="2"))
    await applied(conn, refund_told(order_no, 2))

    assert await status(conn, order_no) == "refunded"


async def test_a_refund_nobody_asked_for_stands_at_the_desk(conn: asyncpg.Connection) -> None:
    order_no = await reserved(conn)
    await applied(conn, paid(order_no))

    await applied(conn, refund_told(order_no))

    assert await status(conn, order_no) == "paid"
    anomaly = await conn.fetchrow("select kind, money_fen, evidence::text as evidence from anomaly")
    assert (anomaly["kind"], anomaly["money_fen"]) == ("refund_not_requested", AMOUNT)
    assert orjson.loads(anomaly["evidence"])["out_refund_no"] == f"{order_no}_R1"


@pytest.mark.parametrize(
    ("told", "kind"),
    [({"amount_fen": 1}, "refund_differs"), ({"transaction_id": "other"}, "refund_differs")],
)
async def test_a_channel_that_speaks_of_another_refund_is_not_believed(
    conn: asyncpg.Connection, told: dict[str, object], kind: str
) -> None:
    order_no = await reserved(conn)
    await applied(conn, paid(order_no))
    await applied(conn, refund_asked(order_no))

    await applied(conn, refund_told(order_no, **told))  # type: ignore[arg-type]

    assert await status(conn, order_no) == "refunding"
    assert await open_kinds(conn) == [kind]


async def test_no_more_goes_back_than_came_whatever_the_code_thinks(
    conn: asyncpg.Connection, order_core: Database
) -> None:
    order_no = await reserved(conn)
    await applied(conn, paid(order_no))
    await applied(conn, refund_asked(order_no, 9000))

    with pytest.raises(CommandRefused):
        await applied(conn, refund_asked(order_no, 901, key="2"))
    with pytest.raises(asyncpg.CheckViolationError, match="no_more_goes_back_than_came"):
        await conn.execute("update payment set refunded_fen = 901")


async def test_what_was_going_back_before_there_were_claims_is_claimed_by_the_migration(
    conn: asyncpg.Connection, order_core: Database
) -> None:
    order_no = await reserved(conn)
    await applied(conn, paid(order_no, "1"), paid(order_no, "2"), paid(order_no, "3"))
    await applied(conn, refund_asked(order_no, transaction=("wechat", "2"), key="2"))
    await applied(conn, refund_asked(order_no, transaction=("wechat", "3"), key="3"))
    await applied(conn, refund_told(order_no, 2, "CLOSED", transaction_id="3"))
    owner = await asyncpg.connect(order_core.owner_url)
    try:
        await owner.execute("delete from payment_claim where transaction_id <> '1'")
        for _ in range(2):
            await owner.execute(CLAIMING.read_text(encoding="utf-8"))
    finally:
        await owner.close()

    rows = await conn.fetch("select transaction_id, order_no from payment_claim order by 1")
    assert [tuple(row) for row in rows] == [("1", order_no), ("2", order_no)]


async def test_a_refund_and_its_answer_in_one_batch_with_the_payment(conn: asyncpg.Connection) -> None:
    """Kafka may bring the payment and the channel's word together, after the desk has asked in between."""
    order_no = await reserved(conn)
    await applied(conn, paid(order_no))
    await applied(conn, refund_asked(order_no, 900))

    outcomes = await applied(conn, labelled(order_no), refund_told(order_no, amount_fen=900), tracked(order_no))

    assert [change.event for change in outcomes.changes] == [
        "waybill_created",
        "part_refund_succeeded",
        "all_parcels_delivered",
    ]
