"""The desk as a person meets it: what stands there, what a repair would do, and that it is done once and by name."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import orjson
import pytest
from redis.asyncio import Redis

from order_core import http, timeouts
from order_core.apply import CommandRefused, apply
from order_core.orders import Incoming
from order_core.settings import OrderSettings
from orderloop.clock import SystemClock
from orderloop.events import AnomalyRaised, CloseOutcome, ParcelStatus, SettlementRequested, SettlementStatus
from orderloop.health import Health
from orderloop.topics import TRACKING_REQUESTED
from tests.support.orders import (
    AMOUNT,
    NOW,
    close_asked,
    close_told,
    confirmed,
    labelled,
    missing,
    paid,
    refund_asked,
    refund_told,
    reserved,
    sent,
    settled,
    tracked,
)

NOBODY = f"{NOW:%y%m%d%H%M%S}ZZZZZZZZZZZZ"


@pytest.fixture
async def desk(pool: asyncpg.Pool, unused_tcp_port: int) -> AsyncIterator[httpx.AsyncClient]:
    async with Redis.from_url(f"redis://127.0.0.1:{unused_tcp_port}") as nobody:
        app = http.create(pool=pool, redis=nobody, clock=SystemClock(), health=Health(), settings=OrderSettings())
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://order-core", headers={"X-Caller": "ops:li"}
        ) as client:
            yield client


async def told(conn: asyncpg.Connection, *events: Incoming) -> None:
    for event in events:
        async with conn.transaction():
            await apply(conn, [event], now=NOW)


async def somebody_waits(conn: asyncpg.Connection) -> None:
    """Until a statement waits for what another transaction has written."""
    waiting = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
    async with asyncio.timeout(10):
        while not await conn.fetchval(waiting):  # noqa: ASYNC110 # a lock has no event
            await asyncio.sleep(0.01)


async def status(conn: asyncpg.Connection, order_no: str) -> str:
    return await conn.fetchval("select status from orders where order_no = $1", order_no)


async def only(desk: httpx.AsyncClient, **query: Any) -> dict[str, Any]:
    """The one open anomaly, whole."""
    [row] = (await desk.get("/v1/anomalies", params={"open": True, **query})).json()["items"]
    return (await desk.get(f"/v1/anomalies/{row['id']}")).json()


async def act(desk: httpx.AsyncClient, number: int, repair: str, **wish: Any) -> httpx.Response:
    body = {"repair": repair, "reason": "looked at it", **wish}
    return await desk.post(f"/v1/anomalies/{number}/act", json=body, headers={"Idempotency-Key": str(uuid4())})


async def test_a_payment_after_the_closing_revives_the_order(desk: httpx.AsyncClient, conn: asyncpg.Connection) -> None:
    order_no = await reserved(conn)
    await told(conn, close_asked(order_no), close_told(order_no), paid(order_no))
    anomaly = await only(desk)
    assert anomaly["repairs"] == ["revive", "link_to_order", "request_refund", "dismiss"]

    wish = {"repair": "revive", "reason": "the goods are there"}
    seen = (await desk.post(f"/v1/anomalies/{anomaly['id']}/preview", json=wish)).json()
    assert (seen["from"], seen["to"]) == ("closed", "paid")
    assert await status(conn, order_no) == "closed"
    done = await act(desk, anomaly["id"], "revive")

    assert (done.status_code, done.json()["to"]) == (202, "paid")
    assert await status(conn, order_no) == "paid"
    row = await conn.fetchrow("select actor, event from order_log order by version desc limit 1")
    assert tuple(row) == ("ops:li", "revived")
    assert await conn.fetchval("select resolved_by from anomaly") == "ops:li"
    assert await conn.fetchval("select order_no from payment_claim") == order_no
    assert await conn.fetchval("select count(*) from access_log where order_no = $1 and route = 'act'", order_no) == 1
    await told(conn, paid(order_no))  # the channel repeats itself
    assert await conn.fetchval("select count(*) from anomaly where resolved_at is null") == 0


async def test_a_payment_for_an_unknown_order_is_linked_to_the_right_one(
    desk: httpx.AsyncClient, conn: asyncpg.Connection
) -> None:
    order_no = await reserved(conn)
    await told(conn, paid(NOBODY))
    anomaly = await only(desk)

    done = await act(desk, anomaly["id"], "link_to_order", order_no=order_no)

    assert done.json()["to"] == "paid"
    assert await status(conn, order_no) == "paid"
    await told(conn, paid(NOBODY))
    assert await conn.fetchval("select count(*) from anomaly where resolved_at is null") == 0


async def test_a_linked_payment_pays_no_second_order(desk: httpx.AsyncClient, conn: asyncpg.Connection) -> None:
    first, second = await reserved(conn, "1"), await reserved(conn, "2")
    await told(conn, paid(first), paid(NOBODY))
    anomaly = await only(desk)

    refused = await act(desk, anomaly["id"], "link_to_order", order_no=second)

    assert refused.status_code == 409
    assert refused.json()["reason"] == "transaction-reused"
    assert await status(conn, second) == "pending"
    assert await conn.fetchval("select count(*) from idempotency") == 0


async def test_a_superfluous_payment_goes_back(desk: httpx.AsyncClient, conn: asyncpg.Connection) -> None:
    order_no = await reserved(conn)
    await told(conn, paid(order_no, "1"), paid(order_no, "2"))
    anomaly = await only(desk)

    done = await act(desk, anomaly["id"], "request_refund")

    assert (done.json()["to"], done.json()["publishes"]) == ("paid", ["orderloop.refund-requested.v1"])
    assert await conn.fetchval("select transaction_id from refund") == "2"


@pytest.mark.parametrize("word", ["ASKED", "SUCCESS", "ABNORMAL", "CLOSED"])
async def test_money_that_was_asked_to_go_back_pays_no_other_order(
    desk: httpx.AsyncClient, conn: asyncpg.Connection, word: str
) -> None:
    """However the refund ends: what the channel has closed, or a person given up, it may still deliver."""
    first, second = await reserved(conn, "1"), await reserved(conn, "2")
    await told(conn, paid(first, "1"), paid(first, "2"), paid(NOBODY, "2"))
    elsewhere, superfluous = (row["id"] for row in (await desk.get("/v1/anomalies")).json()["items"])
    await told(conn, refund_asked(first, transaction=("wechat", "2")))
    if word != "ASKED":
        await told(conn, refund_told(first, 1, word, transaction_id="2"))

    answers = [await act(desk, number, "link_to_order", order_no=second) for number in (elsewhere, superfluous)]

    assert [(answer.status_code, answer.json()["reason"]) for answer in answers] == [(409, "transaction-reused")] * 2
    assert await status(conn, second) == "pending"
    assert await conn.fetchval("select order_no from payment_claim where transaction_id = '2'") == first


async def test_money_that_another_order_links_at_the_same_moment_does_not_go_back(
    desk: httpx.AsyncClient, conn: asyncpg.Connection, pool: asyncpg.Pool
) -> None:
    first, second = await reserved(conn, "1"), await reserved(conn, "2")
    await told(conn, paid(first, "1"), paid(first, "2"))
    anomaly = await only(desk)
    async with pool.acquire() as other:
        linking = other.transaction()
        await linking.start()
        await apply(other, [paid(second, "2")], now=NOW)
        refunding = asyncio.create_task(act(desk, anomaly["id"], "request_refund"))
        await somebody_waits(conn)
        await linking.commit()

    refused = await refunding

    assert (refused.status_code, refused.json()["reason"]) == (409, "transaction-reused")
    assert await conn.fetchval("select count(*) from refund") == 0


async def test_a_late_payment_whose_refund_the_channel_has_closed_may_still_revive_its_order(
    desk: httpx.AsyncClient, conn: asyncpg.Connection
) -> None:
    order_no = await reserved(conn)
    await told(conn, close_asked(order_no), close_told(order_no), paid(order_no))
    anomaly = await only(desk)
    await told(conn, refund_asked(order_no, transaction=("wechat", "4200001")), refund_told(order_no, 1, "CLOSED"))

    assert (await act(desk, anomaly["id"], "revive")).json()["to"] == "paid"


async def test_a_failed_refund_is_asked_for_again_under_a_new_number(
    desk: httpx.AsyncClient, conn: asyncpg.Connection
) -> None:
    order_no = await reserved(conn)
    await told(conn, paid(order_no), refund_asked(order_no, 900), refund_told(order_no, 1, "CLOSED", amount_fen=900))
    anomaly = await only(desk)

    await act(desk, anomaly["id"], "request_refund")

    rows = await conn.fetch("select out_refund_no, amount_fen, state from refund order by 1")
    assert [tuple(row) for row in rows] == [(f"{order_no}_R1", 900, "closed"), (f"{order_no}_R2", 900, "asked")]


async def test_an_abnormal_refund_is_given_up_and_its_money_settles(
    desk: httpx.AsyncClient, conn: asyncpg.Connection
) -> None:
    order_no = await reserved(conn)
    await told(conn, paid(order_no), labelled(order_no), refund_asked(order_no), refund_told(order_no, 1, "ABNORMAL"))
    anomaly = await only(desk)
    assert anomaly["repairs"] == ["request_refund", "give_up_refund", "dismiss"]

    wish = {"repair": "give_up_refund", "reason": "the shop has paid it out in cash", "version": 5}
    seen = (await desk.post(f"/v1/anomalies/{anomaly['id']}/preview", json=wish)).json()
    assert (seen["event"], seen["to"], seen["publishes"]) == ("refund_given_up", "shipped", [])
    assert await conn.fetchval("select state from refund") == "abnormal"
    await told(conn, tracked(order_no))
    late = await act(desk, anomaly["id"], "give_up_refund", version=5)
    assert late.json()["type"].endswith("/order-moved-on")
    done = await act(desk, anomaly["id"], "give_up_refund", reason="paid out in cash")

    assert done.status_code == 202
    assert await conn.fetchval("select state from refund") == "closed"
    row = await conn.fetchrow("select actor, detail->>'because' from order_log where event = 'refund_given_up'")
    assert tuple(row) == ("ops:li", "paid out in cash")
    assert await conn.fetchval("select refunding_fen from payment") == 0
    await told(conn, confirmed(order_no), settled(order_no))
    assert await status(conn, order_no) == "completed"


async def test_a_refund_that_has_succeeded_meanwhile_is_not_given_up(
    desk: httpx.AsyncClient, conn: asyncpg.Connection
) -> None:
    order_no = await reserved(conn)
    await told(conn, paid(order_no), refund_asked(order_no, 900), refund_told(order_no, 1, "ABNORMAL", amount_fen=900))
    anomaly = await only(desk)
    await told(conn, refund_told(order_no, amount_fen=900))

    refused = await act(desk, anomaly["id"], "give_up_refund")

    assert refused.json()["type"].endswith("/anomaly-resolved")
    assert await conn.fetchval("select refunded_fen from payment") == 900


async def test_a_refund_that_comes_through_after_it_was_given_up_stands_at_the_desk(
    desk: httpx.AsyncClient, conn: asyncpg.Connection
) -> None:
    order_no = await reserved(conn)
    await told(conn, paid(order_no), refund_asked(order_no), refund_told(order_no, 1, "ABNORMAL"))
    await act(desk, (await only(desk))["id"], "give_up_refund")

    await told(conn, refund_told(order_no))

    anomaly = await only(desk)
    assert (anomaly["kind"], anomaly["money_fen"]) == ("refund_contradiction", AMOUNT)
    assert await status(conn, order_no) == "paid"


async def test_a_refused_settlement_is_asked_for_again(desk: httpx.AsyncClient, conn: asyncpg.Connection) -> None:
    order_no = await reserved(conn)
    await told(conn, paid(order_no), labelled(order_no), confirmed(order_no))
    await told(conn, settled(order_no, SettlementStatus.FAILED))
    anomaly = await only(desk)

    await act(desk, anomaly["id"], "resettle")

    topic = "orderloop.settlement-requested.v1"
    rows = await conn.fetch("select event_id, body from outbox where topic = $1 order by id", topic)
    assert [row["event_id"] for row in rows] == [f"{order_no}_P1:requested", f"{order_no}_P1:requested:2"]
    assert [SettlementRequested.decode(row["body"]).attempt for row in rows] == [1, 2]
    await told(conn, settled(order_no, attempt=2))
    assert await status(conn, order_no) == "completed"


async def test_the_banks_answer_counts_once_the_order_has_asked_for_it_again(
    desk: httpx.AsyncClient, conn: asyncpg.Connection
) -> None:
    order_no = await reserved(conn)
    await told(conn, paid(order_no), labelled(order_no), tracked(order_no))
    await told(conn, settled(order_no))  # a restore has lost that the receipt was confirmed
    anomaly = await only(desk)
    assert anomaly["repairs"] == ["replay", "dismiss"]
    too_early = await act(desk, anomaly["id"], "replay")
    assert (too_early.status_code, too_early.json()["reason"]) == (409, "settlement-not-requested")

    await told(conn, confirmed(order_no))
    wish = {"repair": "replay", "reason": "the shop has confirmed again"}
    seen = (await desk.post(f"/v1/anomalies/{anomaly['id']}/preview", json=wish)).json()
    assert (seen["from"], seen["to"]) == ("pending_settlement", "completed")
    assert await status(conn, order_no) == "pending_settlement"
    done = await act(desk, anomaly["id"], "replay")
    await told(conn, settled(order_no))

    assert (done.status_code, done.json()["to"]) == (202, "completed")
    assert await status(conn, order_no) == "completed"
    assert await conn.fetchval("select count(*) from order_log where event = 'settlement_succeeded'") == 1
    assert await conn.fetchval("select count(*) from anomaly where resolved_at is null") == 0


@pytest.mark.parametrize(
    ("of_another", "reason"),
    [({"amount_fen": AMOUNT - 900}, "settlement-differs"), ({"instruction": 2}, "settlement-not-requested")],
    ids=["amount", "instruction"],
)
async def test_an_answer_about_other_money_settles_nothing(
    desk: httpx.AsyncClient, conn: asyncpg.Connection, of_another: dict[str, int], reason: str
) -> None:
    order_no = await reserved(conn)
    await told(conn, paid(order_no), labelled(order_no), settled(order_no, **of_another), confirmed(order_no))
    anomaly = await only(desk)

    wish = {"repair": "replay", "reason": "it will fit"}
    seen = await desk.post(f"/v1/anomalies/{anomaly['id']}/preview", json=wish)
    done = await act(desk, anomaly["id"], "replay")

    assert [(a.status_code, a.json()["reason"]) for a in (seen, done)] == [(409, reason)] * 2
    assert await status(conn, order_no) == "pending_settlement"
    assert (await only(desk))["kind"] == "settlement_not_requested"


async def test_after_a_lost_second_attempt_the_next_one_has_a_number_of_its_own(
    desk: httpx.AsyncClient, conn: asyncpg.Connection
) -> None:
    order_no = await reserved(conn)
    await told(conn, paid(order_no), labelled(order_no), settled(order_no, SettlementStatus.FAILED))
    late = await only(desk)
    await told(conn, confirmed(order_no), settled(order_no, SettlementStatus.FAILED, attempt=2))

    await act(desk, (await only(desk, kind="settlement_failed"))["id"], "resettle")
    refused = await act(desk, late["id"], "replay")  # of the first attempt, while the third is at the bank
    await told(conn, refund_asked(order_no))

    topic = "orderloop.settlement-requested.v1"
    rows = await conn.fetch("select event_id from outbox where topic = $1 order by id", topic)
    assert [row["event_id"] for row in rows] == [f"{order_no}_P1:requested", f"{order_no}_P1:requested:3"]
    assert (refused.status_code, refused.json()["reason"]) == (409, "illegal-transition")
    assert await conn.fetchval("select state from refund") == "held"


async def test_the_channels_answer_counts_once_the_close_is_asked_for_again(
    desk: httpx.AsyncClient, conn: asyncpg.Connection
) -> None:
    order_no = await reserved(conn)
    await told(conn, close_told(order_no))  # a restore has lost that it was asked for
    anomaly = await only(desk)
    assert anomaly["repairs"] == ["replay", "dismiss"]

    await told(conn, close_asked(order_no))
    done = await act(desk, anomaly["id"], "replay")
    await told(conn, close_told(order_no))

    assert (done.status_code, done.json()["to"]) == (202, "closed")
    assert await status(conn, order_no) == "closed"
    assert await conn.fetchval("select count(*) from order_log where event = 'close_confirmed'") == 1


async def test_an_older_answer_closes_nothing_that_the_channels_call_paid(
    desk: httpx.AsyncClient, conn: asyncpg.Connection
) -> None:
    order_no = await reserved(conn)
    await told(conn, close_told(order_no), close_asked(order_no), close_told(order_no, CloseOutcome.PAID, n=2))
    anomaly = await only(desk)

    refused = await act(desk, anomaly["id"], "replay")

    assert (refused.status_code, refused.json()["reason"]) == (409, "close-not-requested")
    assert await status(conn, order_no) == "pending"


async def test_a_missing_notice_is_applied_by_a_person_and_stays_counted(
    desk: httpx.AsyncClient, conn: asyncpg.Connection
) -> None:
    order_no = await reserved(conn)
    await told(conn, missing(order_no))
    anomaly = await only(desk, kind="callback_missing")

    await act(desk, anomaly["id"], "apply_evidence")
    await told(conn, paid(order_no))  # the real notice, hours later, is the same fact

    assert await status(conn, order_no) == "paid"
    assert await conn.fetchval("select count(*) from anomaly where kind = 'callback_missing'") == 1
    assert await conn.fetchval("select count(*) from anomaly where resolved_at is null") == 0
    assert await conn.fetchval("select count(*) from order_log where event = 'payment_succeeded'") == 1


async def test_a_parcel_that_was_given_up_is_asked_for_anew_unless_it_has_arrived(
    desk: httpx.AsyncClient, conn: asyncpg.Connection
) -> None:
    order_no = await reserved(conn)
    parcel = {"express_code": "zto", "waybill_no": "7312"}
    await told(conn, paid(order_no), labelled(order_no), tracked(order_no, ParcelStatus.EXHAUSTED))
    for kind in ("parcel_silent", "parcel_exhausted"):
        raised = AnomalyRaised(order_no=order_no, kind=kind, evidence=parcel, raised_at=NOW)
        await told(conn, sent(f"zto:7312:{kind}", raised, source="/logistics-poller"))
    await conn.execute("delete from outbox")

    done = await act(desk, (await only(desk, kind="parcel_exhausted"))["id"], "retrack")

    assert (done.json()["to"], done.json()["event"]) == ("shipped", "tracking_requested")
    asked = await conn.fetchrow("select event_id, body from outbox where topic = $1", TRACKING_REQUESTED)
    assert asked["event_id"] == f"zto:7312:tracking-requested:{done.json()['version']}"
    assert orjson.loads(asked["body"]).items() >= {"order_no": order_no, **parcel}.items()

    await told(conn, tracked(order_no, hours=100))
    refused = await act(desk, (await only(desk, kind="parcel_silent"))["id"], "retrack")
    assert (refused.status_code, refused.json()["reason"]) == (409, "parcel-has-ended")


@pytest.mark.parametrize(
    ("kind", "evidence", "repair"),
    [
        ("illegal_transition", {"a": 1}, "replay"),
        ("refund_failed", {"channel": "wechat", "transaction_id": "\0"}, "request_refund"),
        ("refund_failed", {"channel": "wechat", "transaction_id": "1", "refund_fen": "900"}, "request_refund"),
        ("callback_missing", {"transaction_id": 1}, "apply_evidence"),
    ],
)
async def test_what_others_put_into_their_evidence_is_no_error_of_ours(
    desk: httpx.AsyncClient, conn: asyncpg.Connection, kind: str, evidence: dict[str, Any], repair: str
) -> None:
    order_no = await reserved(conn)
    raised = AnomalyRaised(order_no=order_no, kind=kind, evidence=evidence, raised_at=NOW)
    await told(conn, sent("/wms/suzhou#1", raised, source="/wms/suzhou"))

    refused = await act(desk, (await only(desk))["id"], repair)

    assert (refused.status_code, refused.json()["type"].rpartition("/")[2]) == (422, "repair-does-not-fit")


@pytest.mark.parametrize(
    ("amount_fen", "closed", "kind", "repair", "what_follows"),
    [
        (1, False, "amount_mismatch", "request_refund", "pending"),
        (AMOUNT, True, "paid_after_close", "request_refund", "refunding"),
        (AMOUNT, True, "paid_after_close", "revive", "paid"),
        (AMOUNT, True, "paid_after_close", "link_to_order", "paid"),
    ],
)
async def test_evidence_that_does_not_fit_stands_at_the_desk_as_its_notice_would(  # noqa: PLR0917 # a table
    desk: httpx.AsyncClient,
    conn: asyncpg.Connection,
    amount_fen: int,
    closed: bool,
    kind: str,
    repair: str,
    what_follows: str,
) -> None:
    order_no, other = await reserved(conn, "1"), await reserved(conn, "2")
    if closed:
        await told(conn, close_asked(order_no), close_told(order_no))
    await told(conn, missing(order_no, amount_fen=amount_fen))
    wish = {"repair": "apply_evidence", "reason": "it is what the channel says"}
    anomaly = await only(desk)

    seen = await desk.post(f"/v1/anomalies/{anomaly['id']}/preview", json=wish)
    done = await act(desk, anomaly["id"], "apply_evidence")

    assert seen.json() == done.json() == {"repair": "apply_evidence", "order_no": order_no, "parked": kind}
    parked = await only(desk)
    assert (parked["kind"], parked["money_fen"], parked["actor"]) == (kind, amount_fen, "ops:li")
    mended = await act(desk, parked["id"], repair, **({"order_no": other} if repair == "link_to_order" else {}))
    assert mended.json()["to"] == what_follows
    assert (await desk.get("/v1/anomalies", params={"open": True})).json()["items"] == []


async def test_what_waited_in_vain_is_replayed_once_its_predecessor_is_there(
    desk: httpx.AsyncClient, conn: asyncpg.Connection, pool: asyncpg.Pool
) -> None:
    order_no = await reserved(conn)
    await told(conn, labelled(order_no))
    await timeouts.give_up_waiting(pool, longest=timedelta(0))
    anomaly = await only(desk)

    too_early = await act(desk, anomaly["id"], "replay")
    await told(conn, paid(order_no))
    done = await act(desk, anomaly["id"], "replay")

    assert (too_early.status_code, too_early.json()["reason"]) == (409, "predecessor-missing")
    assert (done.status_code, done.json()["to"]) == (202, "shipped")
    assert await conn.fetchval("select count(*) from waiting") == 0


async def test_an_event_that_was_applied_and_left_something_for_a_person_is_not_applied_again(
    desk: httpx.AsyncClient, conn: asyncpg.Connection
) -> None:
    order_no = await reserved(conn)
    await told(conn, paid(order_no), labelled(order_no), confirmed(order_no))
    await told(conn, settled(order_no, SettlementStatus.FAILED), refund_asked(order_no, 900), settled(order_no))
    anomaly = await only(desk, kind="settled_and_refunded")

    refused = await act(desk, anomaly["id"], "replay")

    assert anomaly["event_id"] == f"{settled(order_no).event_id}#settled_and_refunded"
    assert (refused.status_code, refused.json()["reason"]) == (409, "status")
    assert await conn.fetchval("select count(*) from order_log where event = 'settlement_succeeded'") == 1


async def test_an_anomaly_is_dismissed_with_a_reason_and_by_name(
    desk: httpx.AsyncClient, conn: asyncpg.Connection
) -> None:
    order_no = await reserved(conn)
    await told(conn, refund_told(order_no), paid(NOBODY))
    for row in (await desk.get("/v1/anomalies")).json()["items"]:
        assert (await act(desk, row["id"], "dismiss", reason="a test at the channel")).status_code == 202

    log = await conn.fetchrow("select event, actor, detail->>'reason' from order_log order by version desc limit 1")
    assert tuple(log) == ("anomaly_dismissed", "ops:li", "a test at the channel")
    assert (await desk.get("/v1/anomalies", params={"open": True})).json()["items"] == []


async def test_what_has_moved_on_is_left_alone(desk: httpx.AsyncClient, conn: asyncpg.Connection) -> None:
    order_no = await reserved(conn)
    await told(conn, close_asked(order_no), close_told(order_no), paid(order_no, "1"), paid(order_no, "2"))
    first, second = (row["id"] for row in (await desk.get("/v1/anomalies")).json()["items"])
    seen = (await desk.get(f"/v1/anomalies/{first}")).json()["order"]["version"]

    assert (await act(desk, second, "revive", version=seen)).status_code == 202
    moved = await act(desk, first, "revive", version=seen)
    impossible = await act(desk, first, "revive")
    done = await act(desk, second, "dismiss")
    misfit = await act(desk, first, "resettle")

    assert [a.json()["type"].rpartition("/")[2] for a in (moved, impossible, done, misfit)] == [
        "order-moved-on",
        "order-status-forbids",
        "anomaly-resolved",
        "repair-does-not-fit",
    ]
    assert await conn.fetchval("select count(*) from payment where applied") == 1


async def test_an_order_that_moves_on_under_the_hand_is_left_alone(
    desk: httpx.AsyncClient, conn: asyncpg.Connection, pool: asyncpg.Pool
) -> None:
    order_no = await reserved(conn)
    await told(conn, paid(order_no, "1"), paid(order_no, "2"))
    anomaly = await only(desk)
    async with pool.acquire() as other:
        moving = other.transaction()
        await moving.start()
        await apply(other, [labelled(order_no)], now=NOW)
        acting = asyncio.create_task(act(desk, anomaly["id"], "request_refund", version=anomaly["order"]["version"]))
        await somebody_waits(conn)
        await moving.commit()

    assert (await acting).json()["type"].endswith("/order-moved-on")
    assert await conn.fetchval("select count(*) from refund") == 0


async def test_what_a_person_saw_is_the_order_that_names_the_payment_not_the_one_it_is_linked_to(
    desk: httpx.AsyncClient, conn: asyncpg.Connection
) -> None:
    named, meant = await reserved(conn, "1"), await reserved(conn, "2")
    await told(conn, paid(named, "1"), labelled(named), paid(named, "2"))
    anomaly = await only(desk)
    seen = anomaly["order"]["version"]

    await told(conn, tracked(named))
    moved = await act(desk, anomaly["id"], "link_to_order", order_no=meant, version=seen)
    done = await act(desk, anomaly["id"], "link_to_order", order_no=meant, version=seen + 1)

    assert moved.json()["type"].endswith("/order-moved-on")
    assert (done.json()["order_no"], done.json()["to"]) == (meant, "paid")


async def test_the_same_act_twice_is_one_act(desk: httpx.AsyncClient, conn: asyncpg.Connection) -> None:
    order_no = await reserved(conn)
    await told(conn, paid(order_no, "1"), paid(order_no, "2"))
    anomaly = await only(desk)
    body, key = {"repair": "request_refund", "reason": "twice"}, {"Idempotency-Key": str(uuid4())}

    answers = [await desk.post(f"/v1/anomalies/{anomaly['id']}/act", json=body, headers=key) for _ in range(2)]

    assert [answer.status_code for answer in answers] == [202, 202]
    assert answers[0].content == answers[1].content
    assert await conn.fetchval("select count(*) from refund") == 1


async def test_the_list_is_read_page_by_page(desk: httpx.AsyncClient, conn: asyncpg.Connection) -> None:
    for n in range(5):
        await told(conn, paid(NOBODY, str(n)))

    pages: list[list[int]] = []
    before: int | None = None
    while not pages or before is not None:
        query = {"limit": 2} | ({"before": before} if before else {})
        answer = (await desk.get("/v1/anomalies", params=query)).json()
        pages.append([row["id"] for row in answer["items"]])
        before = answer["next"]

    assert [len(page) for page in pages] == [2, 2, 1]
    assert sorted((n for page in pages for n in page), reverse=True) == [n for page in pages for n in page]


async def test_a_dead_letter_is_tried_again_and_put_away_once_per_key(
    desk: httpx.AsyncClient, conn: asyncpg.Connection
) -> None:
    await conn.execute(
        """insert into dead_letter
               (origin, topic, consumer_group, headers, body, reason, attempts, failed_at, sent_before)
           values ('t-0-1', 'orderloop.payment-notified.v1', 'order-core', '[]', '', 'MalformedEvent', 1, now(), 0)"""
    )
    [letter] = (await desk.get("/v1/dead-letters")).json()["items"]
    wish, key = {"ids": [letter["id"]], "reason": "a test's"}, {"Idempotency-Key": str(uuid4())}

    dry = await desk.post("/v1/dead-letters/redrive", json=wish | {"dry_run": True})
    wet = await desk.post("/v1/dead-letters/redrive", json=wish, headers=key)
    away = [await desk.post("/v1/dead-letters/dismiss", json=wish, headers=key) for _ in range(2)]
    keyless = await desk.post("/v1/dead-letters/dismiss", json=wish)

    assert dry.json() == wet.json()
    assert wet.json()["letters"][0]["why_not"].startswith("every consumer would refuse it again")
    assert [answer.json() for answer in away] == [{"dismissed": [letter["id"]]}] * 2
    assert keyless.status_code == 400
    assert (await desk.get("/v1/dead-letters", params={"open": True})).json()["items"] == []
    assert await conn.fetchval("select count(*) from access_log where order_no = 'dead-letters'") == 5


async def test_an_id_that_a_foreign_producer_uses_again_is_an_anomaly_and_changes_nothing(
    conn: asyncpg.Connection,
) -> None:
    order_no = await reserved(conn)
    await told(conn, paid(order_no))

    def foreign(waybill_no: str) -> Incoming:
        return sent("/wms/suzhou#1", labelled(order_no, waybill_no).body, source="/wms/suzhou")  # type: ignore[arg-type]

    async with conn.transaction():
        await apply(conn, [foreign("1"), foreign("1"), foreign("2"), foreign("2")], now=NOW)
    await told(conn, foreign("1"), foreign("2"), foreign("3"))

    assert await conn.fetchval("select count(*) from parcel") == 1
    rows = await conn.fetch("select kind, seen from anomaly order by id")
    assert [tuple(row) for row in rows] == [("id_reused", 2), ("id_reused", 1)]


async def test_money_of_another_order_cannot_be_given_back(conn: asyncpg.Connection) -> None:
    first, second = await reserved(conn, "1"), await reserved(conn, "2")
    await told(conn, paid(first), paid(second))

    with pytest.raises(CommandRefused) as refusal:
        await told(conn, refund_asked(second, transaction=("wechat", "4200001")))

    assert refusal.value.reason == "transaction-reused"
