"""What the callback promises, on a real PostgreSQL: stored before answered, once, whatever happens in between."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import httpx
import orjson
import pytest
import pytest_asyncio
from pydantic import SecretStr

from orderloop import postgres
from orderloop.clock import SystemClock
from orderloop.settings import HttpSettings, PostgresSettings
from orderloop_lab.simulators.wechat_keys import Keys
from payment_callback.app import build
from payment_callback.channels.wechat import WeChat
from payment_callback.settings import CallbackSettings
from tests.support.databases import Database
from tests.support.wechat import ORDER_NO, SHAPES, TRANSACTION_ID, Sent, bent, combined, refund, send, transaction

CALLBACK = "/v1/order/callback/wechat"
OPERATOR = {"Authorization": "Bearer operator"}


@pytest.fixture
def db(database: Callable[[str], Database]) -> Database:
    return database("payment_callback")


@pytest_asyncio.fixture
async def conn(db: Database) -> AsyncIterator[asyncpg.Connection]:
    """The owner's eyes and hands."""
    conn = await asyncpg.connect(db.owner_url)
    yield conn
    await conn.close()


class Service:
    """The whole application in this process, without a port."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client

    async def post(self, sent: Sent, **changes: str) -> httpx.Response:
        return await self.client.post(CALLBACK, content=sent.body, headers=sent.headers | changes)


@pytest_asyncio.fixture
async def service(db: Database, channel: WeChat) -> AsyncIterator[Service]:
    settings = PostgresSettings(url=SecretStr(db.app_url))
    async with postgres.pool(settings, application_name="test") as pool:
        app = build(
            pool,
            channels=[channel],
            settings=CallbackSettings(refused_rows_per_hour=20, refused_bytes_per_hour=100_000),
            clock=SystemClock(),
            http_settings=HttpSettings(operator_token=SecretStr("operator")),
        )
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://callback", headers=OPERATOR) as client:
            yield Service(client)


async def outbox(conn: asyncpg.Connection) -> list[str]:
    return [row["event_id"] for row in await conn.fetch("select event_id from outbox order by id")]


async def verdicts(conn: asyncpg.Connection) -> list[tuple[str, str | None]]:
    rows = await conn.fetch("select verdict, reason from callback_log order by id")
    return [(row["verdict"], row["reason"] or None) for row in rows]


async def test_a_payment_is_answered_204_and_by_then_logged_remembered_and_staged(
    service: Service, conn: asyncpg.Connection, keys: Keys
) -> None:
    sent = send(keys, transaction())

    answer = await service.post(sent, **{"X-Forwarded-For": "101.226.103.15"})

    assert (answer.status_code, answer.content) == (204, b"")
    (logged,) = await conn.fetch("select * from callback_log")
    assert logged["body"] == sent.body
    headers = orjson.loads(logged["headers"])
    assert headers["wechatpay-signature"] == sent.headers["Wechatpay-Signature"]
    assert headers["x-forwarded-for"] == "101.226.103.15"
    assert (logged["verdict"], logged["status"], logged["shape"]) == ("accepted", 204, "transaction")
    assert (logged["order_nos"], logged["transaction_ids"]) == ([ORDER_NO], [TRANSACTION_ID])
    assert logged["event_ids"] == await outbox(conn) == [f"wechat:{TRANSACTION_ID}:paid"]
    staged = await conn.fetchrow("select order_no, topic, body from outbox")
    remembered = await conn.fetchrow("select order_no, topic, body from callback_memory")
    assert staged == remembered
    assert staged is not None
    assert staged["topic"] == "orderloop.payment-notified.v1"
    assert orjson.loads(staged["body"])["amount_fen"] == 9900
    assert b"openid" not in staged["body"]


async def test_the_same_notice_again_is_answered_with_success_and_changes_nothing(
    service: Service, conn: asyncpg.Connection, keys: Keys
) -> None:
    first = send(keys, transaction())
    encrypted_anew = send(keys, transaction())

    answers = [await service.post(one) for one in (first, first, encrypted_anew)]

    assert [answer.status_code for answer in answers] == [204, 204, 204]
    assert await outbox(conn) == [f"wechat:{TRANSACTION_ID}:paid"]
    assert await verdicts(conn) == [("accepted", None), ("duplicate", None), ("duplicate", None)]


@pytest.mark.parametrize("copies", [2, 50, 450])
async def test_copies_at_the_same_instant_stage_one_event(
    service: Service, conn: asyncpg.Connection, keys: Keys, copies: int
) -> None:
    sent = send(keys, transaction())

    answers = await asyncio.gather(*(service.post(sent) for _ in range(copies)))

    assert {answer.status_code for answer in answers} == {204}
    assert await outbox(conn) == [f"wechat:{TRANSACTION_ID}:paid"]
    assert sorted(await verdicts(conn)) == [("accepted", None)] + [("duplicate", None)] * (copies - 1)


async def test_two_processes_that_get_the_same_notice_at_once_stage_one_event(
    db: Database, channel: WeChat, service: Service, conn: asyncpg.Connection, keys: Keys
) -> None:
    settings = PostgresSettings(url=SecretStr(db.app_url))
    notices = [send(keys, transaction(transaction_id=f"T{number}")) for number in range(40)]
    async with postgres.pool(settings, application_name="other") as pool:
        app = build(
            pool, channels=[channel], settings=CallbackSettings(), clock=SystemClock(), http_settings=HttpSettings()
        )
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://other") as client:
            other = Service(client)
            answers = await asyncio.gather(
                *(service.post(notice) for notice in notices), *(other.post(notice) for notice in reversed(notices))
            )

    assert {answer.status_code for answer in answers} == {204}
    assert sorted(await outbox(conn)) == sorted(f"wechat:T{number}:paid" for number in range(40))


async def test_many_notices_at_once_share_few_transactions(
    service: Service, conn: asyncpg.Connection, keys: Keys
) -> None:
    notices = [send(keys, transaction(transaction_id=f"T{number}")) for number in range(300)]

    answers = await asyncio.gather(*(service.post(notice) for notice in notices))

    assert {answer.status_code for answer in answers} == {204}
    assert len(await outbox(conn)) == 300
    assert await conn.fetchval("select count(distinct xmin::text) from callback_memory") <= 10


async def test_a_refund_and_a_combined_payment_become_their_events(
    service: Service, conn: asyncpg.Connection, keys: Keys
) -> None:
    other = "261122093016ABCDEFGH1235"

    await service.post(send(keys, combined((ORDER_NO, "T1"), (other, "T2"), (other, "T2"))))
    await service.post(send(keys, refund()))

    assert await outbox(conn) == ["wechat:T1:paid", "wechat:T2:paid", "wechat:50300001234567890123456789012:refunded"]


@pytest.mark.parametrize("refunded_by", ["a refund's notice", "trade_state"])
async def test_a_success_after_the_refund_is_the_same_payment_and_no_second_one(
    service: Service, conn: asyncpg.Connection, keys: Keys, refunded_by: str
) -> None:
    later = refund() if refunded_by == "a refund's notice" else transaction(trade_state="REFUND")

    for told in (transaction(), later, transaction(), later):
        assert (await service.post(send(keys, told))).status_code == 204

    staged = await outbox(conn)
    assert staged.count(f"wechat:{TRANSACTION_ID}:paid") == 1
    assert len(staged) == (2 if refunded_by == "a refund's notice" else 1)


async def test_a_success_that_only_comes_after_the_refund_is_still_news(
    service: Service, conn: asyncpg.Connection, keys: Keys
) -> None:
    for told in (transaction(trade_state="REFUND"), refund(), transaction()):
        assert (await service.post(send(keys, told))).status_code == 204

    assert (await outbox(conn))[-1] == f"wechat:{TRANSACTION_ID}:paid"


async def test_a_refund_without_its_amount_is_taken_and_asked_about_once(
    service: Service, conn: asyncpg.Connection, keys: Keys
) -> None:
    answers = [await service.post(send(keys, refund(amount=None))) for _ in range(2)]

    assert [answer.status_code for answer in answers] == [204, 204]
    assert await verdicts(conn) == [("accepted", None), ("duplicate", None)]
    asked = await conn.fetch("select kind, key, order_no from errand")
    assert [tuple(row) for row in asked] == [("refund_look", f"wechat:{TRANSACTION_ID}:R1", ORDER_NO)]


async def test_what_becomes_no_event_is_logged_and_acknowledged(
    service: Service, conn: asyncpg.Connection, keys: Keys
) -> None:
    answer = await service.post(send(keys, transaction(out_trade_no="another-shop-77")))

    assert answer.status_code == 204
    assert await verdicts(conn) == [("noted", "out_trade_no is not one of ours")]
    assert await outbox(conn) == []


async def test_when_nothing_can_be_stored_the_channel_is_told_to_repeat(
    service: Service, conn: asyncpg.Connection, keys: Keys
) -> None:
    sent = send(keys, transaction())
    await conn.execute("alter table outbox add constraint disk_full check (false) not valid")

    failed = await service.post(sent)

    assert failed.status_code == 503
    assert failed.json() == {"code": "FAIL", "message": "失败"}
    assert await conn.fetchval("select count(*) from callback_log") == 0
    assert await conn.fetchval("select count(*) from callback_memory") == 0

    await conn.execute("alter table outbox drop constraint disk_full")

    assert (await service.post(sent)).status_code == 204
    assert await outbox(conn) == [f"wechat:{TRANSACTION_ID}:paid"]


async def test_one_notice_that_the_database_refuses_does_not_take_the_others_with_it(
    service: Service, conn: asyncpg.Connection, keys: Keys
) -> None:
    await conn.execute("alter table callback_memory add constraint poison check (event_id <> 'wechat:T7:paid')")
    notices = [send(keys, transaction(transaction_id=f"T{number}")) for number in range(20)]

    answers = await asyncio.gather(*(service.post(notice) for notice in notices))

    assert [answer.status_code for answer in answers] == [503 if number == 7 else 204 for number in range(20)]
    assert len(await outbox(conn)) == 19


async def test_a_database_that_stands_still_costs_the_answer_but_not_the_deadline(
    service: Service, conn: asyncpg.Connection, keys: Keys
) -> None:
    sent = send(keys, transaction())
    async with conn.transaction():
        await conn.execute("lock table callback_log")
        began = time.monotonic()
        answer = await service.post(sent)
        waited = time.monotonic() - began

    assert answer.status_code == 503
    assert waited < 4.5  # the channel waits for 5
    assert (await service.post(sent)).status_code == 204
    assert len(await outbox(conn)) == 1


async def test_a_database_that_is_away_is_a_503(channel: WeChat, keys: Keys) -> None:
    settings = PostgresSettings(url=SecretStr("postgresql://nobody@127.0.0.1:1/none"))
    async with postgres.pool(settings, application_name="test") as pool:
        app = build(
            pool, channels=[channel], settings=CallbackSettings(), clock=SystemClock(), http_settings=HttpSettings()
        )
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://callback") as client:
            accepted, forged = await asyncio.gather(
                Service(client).post(send(keys, transaction())),
                Service(client).post(send(keys, transaction()), **{"Wechatpay-Nonce": "another"}),
            )
            ready = await client.get("/readyz")

    assert (accepted.status_code, forged.status_code, ready.status_code) == (503, 401, 503)


def probe(sent: Sent) -> dict[str, str]:
    return {"Wechatpay-Signature": ("WECHATPAY/SIGNTEST/" + sent.headers["Wechatpay-Signature"])[:344]}


@pytest.mark.parametrize(
    ("change", "status", "reason"),
    [
        (probe, 401, "probe"),
        (lambda _: {"Wechatpay-Nonce": "another"}, 401, "bad_signature"),
        (lambda _: {"Wechatpay-Serial": "PUB_KEY_ID_0"}, 401, "unknown_serial"),
        (lambda _: {"Wechatpay-Timestamp": "1"}, 401, "clock"),
        (lambda _: {"Content-Type": "application/x-www-form-urlencoded"}, 415, "media_type"),
    ],
)
async def test_a_refusal_says_nothing_changes_nothing_and_leaves_its_reason_in_the_log(  # noqa: PLR0917
    service: Service,
    conn: asyncpg.Connection,
    keys: Keys,
    change: Callable[[Sent], dict[str, str]],
    status: int,
    reason: str,
) -> None:
    sent = send(keys, transaction())

    answer = await service.post(sent, **change(sent))

    assert (answer.status_code, answer.json()) == (status, {"code": "FAIL", "message": "失败"})
    assert await verdicts(conn) == [("refused", reason)]
    assert await outbox(conn) == []
    assert (await service.post(sent)).status_code == 204  # and the right one is none the worse for it


@pytest.mark.parametrize(
    ("plain", "status", "reason"),
    [
        (transaction(mchid="1900000001"), 400, "wrong_merchant"),
        ({"a_shape": "of tomorrow"}, 422, "not_understood"),
    ],
)
async def test_what_is_authentic_but_not_usable_is_repeated_by_the_channel_until_we_learn(  # noqa: PLR0917
    service: Service, conn: asyncpg.Connection, keys: Keys, plain: dict[str, Any], status: int, reason: str
) -> None:
    answer = await service.post(send(keys, plain))

    assert answer.status_code == status
    assert await verdicts(conn) == [("refused", reason)]


@pytest.mark.parametrize("shape", SHAPES)
async def test_no_authentic_notice_however_odd_is_answered_by_accident(
    service: Service, conn: asyncpg.Connection, keys: Keys, shape: str
) -> None:
    """Taken, another merchant's, or not understood: each is a decision, and stands in the log."""
    odd = [send(keys, content) for _, content in bent(SHAPES[shape])]

    answers = await asyncio.gather(*(service.post(sent) for sent in odd))

    assert {answer.status_code for answer in answers} <= {204, 400, 422}
    assert await conn.fetchval("select count(*) from callback_log") == len(odd)


async def test_64_kilobytes_are_the_limit(service: Service, conn: asyncpg.Connection, keys: Keys) -> None:
    headers = send(keys, transaction()).headers

    at_the_limit = await service.post(Sent(headers, b"x" * 65536))
    beyond = await service.post(Sent(headers, b"x" * 65537))

    assert (at_the_limit.status_code, beyond.status_code) == (401, 413)
    assert beyond.headers["connection"] == "close"
    rows = await conn.fetch("select reason, octet_length(body) as size from callback_log order by id")
    assert [(row["reason"], row["size"]) for row in rows] == [("bad_signature", 65536), ("too_large", None)]


async def test_a_body_without_an_announced_length_is_cut_off_at_the_limit(service: Service, keys: Keys) -> None:
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        while True:
            read += 8192
            yield b"x" * 8192

    answer = await service.client.post(CALLBACK, content=endless(), headers=send(keys, transaction()).headers)

    assert answer.status_code == 413
    assert read <= 65536 + 2 * 8192


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_only_posts_are_callbacks(service: Service, conn: asyncpg.Connection, method: str) -> None:
    answer = await service.client.request(method, CALLBACK)

    assert answer.status_code == 405
    assert await verdicts(conn) == [("refused", "method")]


async def test_strangers_cannot_fill_the_log_and_do_not_keep_the_channel_out(
    service: Service, conn: asyncpg.Connection, keys: Keys
) -> None:
    sent = send(keys, transaction())

    refused = [await service.post(sent, **{"Wechatpay-Nonce": str(number)}) for number in range(30)]
    unknown = await service.post(send(keys, {"a_shape": "of tomorrow"}))

    assert {answer.status_code for answer in refused} == {401}
    assert unknown.status_code == 422
    assert await conn.fetchval("select count(*) from callback_log where reason = 'bad_signature'") == 20
    assert await conn.fetchval("select count(*) from callback_log where reason = 'not_understood'") == 1
    assert (await service.post(sent)).status_code == 204


@pytest.mark.parametrize("value", ["\x00", "é\xff", "'; drop table callback_log; --", "\\u0000"])
async def test_what_a_stranger_writes_into_a_header_is_only_ever_logged(
    service: Service, conn: asyncpg.Connection, keys: Keys, value: str
) -> None:
    sent = send(keys, transaction())

    answer = await service.client.post(
        CALLBACK,
        content=sent.body,
        headers=[(k, v) for k, v in sent.headers.items()] + [("User-Agent", value.encode("latin-1"))],
    )

    assert answer.status_code == 204
    assert await verdicts(conn) == [("accepted", None)]


async def test_the_service_is_ready_with_the_database_alone(service: Service) -> None:
    answer = await service.client.get("/readyz")

    assert (answer.status_code, answer.json()) == (200, {"postgres": "ok"})


async def test_the_log_is_searched_by_order_transaction_result_and_time_page_by_page(
    service: Service, keys: Keys
) -> None:
    other = "261122093016ABCDEFGH1235"
    await service.post(send(keys, transaction()))
    await service.post(send(keys, combined(("261122093016ABCDEFGH9999", "T1"), (other, "T2"))))
    await service.post(send(keys, transaction()))
    await service.post(send(keys, transaction()), **{"Wechatpay-Nonce": "another"})

    async def found(**query: Any) -> list[str]:
        answer = (await service.client.get("/v1/callbacks", params=query)).raise_for_status().json()
        return [callback["verdict"] for callback in answer["callbacks"]]

    assert await found() == ["refused", "duplicate", "accepted", "accepted"]
    assert await found(order_no=ORDER_NO) == ["duplicate", "accepted"]
    assert await found(order_no=other) == ["accepted"]
    assert await found(transaction_id="T2") == ["accepted"]
    assert await found(result="refused") == ["refused"]
    assert await found(until=(datetime.now(UTC) - timedelta(hours=1)).isoformat()) == []
    assert await found(since=(datetime.now(UTC) - timedelta(hours=1)).isoformat(), order_no=other) == ["accepted"]

    pages: list[str] = []
    query: dict[str, Any] = {"limit": 3}
    while True:
        page = (await service.client.get("/v1/callbacks", params=query)).json()
        pages += [callback["verdict"] for callback in page["callbacks"]]
        if page["next"] is None:
            break
        query["after"] = page["next"]
    assert pages == ["refused", "duplicate", "accepted", "accepted"]


async def test_the_search_shows_neither_bodies_nor_payers(service: Service, keys: Keys) -> None:
    await service.post(send(keys, transaction()))

    shown = (await service.client.get("/v1/callbacks")).text

    assert "ciphertext" not in shown
    assert "openid" not in shown
    assert "oUpF8u" not in shown


async def test_a_page_mark_that_is_none_is_a_422(service: Service) -> None:
    for after in ("x", "2026-11-22T00:00:00~1", "2026-11-22T00:00:00+00:00~x"):
        answer = await service.client.get("/v1/callbacks", params={"after": after})
        assert answer.status_code == 422
        assert answer.headers["content-type"] == "application/problem+json"
