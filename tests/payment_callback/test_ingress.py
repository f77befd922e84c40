"""What strangers can do to the notify URL: be refused, in a fixed order, cheaply, and without learning anything."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime

import asyncpg
import httpx
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from orderloop_lab.simulators.wechat_keys import Keys
from payment_callback.channels import Refused, signing
from payment_callback.channels.wechat import WeChat
from tests.support.databases import Database
from tests.support.payment_callback import CALLBACK, Process
from tests.support.wechat import Sent, send, transaction


@pytest.fixture
def db(database: Callable[[str], Database]) -> Database:
    return database("payment_callback")


@pytest_asyncio.fixture
async def conn(db: Database) -> AsyncIterator[asyncpg.Connection]:
    conn = await asyncpg.connect(db.owner_url)
    yield conn
    await conn.close()


@pytest_asyncio.fixture
async def service(db: Database, keys: Keys) -> AsyncIterator[Process]:
    async with Process(
        db, keys, ORDERLOOP_HTTP_TRUSTED_PROXIES="127.0.0.0/8", ORDERLOOP_CALLBACK_REFUSED_ROWS_PER_ADDRESS="5"
    ) as process:
        yield process


async def reasons(conn: asyncpg.Connection) -> list[str]:
    return [row["reason"] for row in await conn.fetch("select reason from callback_log order by id")]


async def test_the_checks_follow_one_order_whatever_else_is_wrong(
    service: Process, conn: asyncpg.Connection, keys: Keys
) -> None:
    """Every request has all faults of those after it as well."""
    right = send(keys, transaction()).headers
    signature = {"Wechatpay-Signature": right["Wechatpay-Signature"], "Wechatpay-Nonce": "another"}
    serial = signature | {"Wechatpay-Serial": "PUB_KEY_ID_0"}
    clock = serial | {"Wechatpay-Timestamp": "1"}
    headers = {"Content-Type": "application/json", "Wechatpay-Timestamp": "1"}
    media = {"Wechatpay-Timestamp": "1", "Content-Type": "text/plain"}
    faults: list[tuple[str, str, Mapping[str, str], int]] = [
        ("PUT", "too_large", media, 413),
        ("PUT", "method", media, 405),
        ("POST", "media_type", media, 415),
        ("POST", "header_missing", headers, 401),
        ("POST", "clock", right | clock, 401),
        ("POST", "unknown_serial", right | serial, 401),
        ("POST", "bad_signature", right | signature, 401),
    ]
    for n, (method, reason, sent, status) in enumerate(faults):
        body = b"x" * (70_000 if reason == "too_large" else 10)
        answer = await service.http.request(
            method, CALLBACK, content=body, headers={**sent, "X-Forwarded-For": f"9.9.9.{n}"}
        )
        assert (answer.status_code, answer.json()["code"]) == (status, "FAIL")

    assert await reasons(conn) == [reason for _, reason, _, _ in faults]


async def test_what_is_announced_as_too_large_is_refused_before_it_is_sent(service: Process) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
    writer.write(f"POST {CALLBACK} HTTP/1.1\r\nHost: x\r\nContent-Length: 10000000\r\n\r\n".encode())
    answer = await asyncio.wait_for(reader.read(), 5)  # to its end: the connection is closed
    writer.close()

    assert answer.startswith(b"HTTP/1.1 413")


async def test_a_trickled_body_is_no_way_to_hold_the_service(service: Process, keys: Keys) -> None:
    """Twenty at once; meanwhile the channel is served."""

    async def trickle() -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        writer.write(f"POST {CALLBACK} HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n".encode())
        answer = asyncio.create_task(reader.read(12))
        while not answer.done():
            writer.write(b"x")
            await asyncio.wait({answer}, timeout=0.2)
        writer.close()
        return answer.result()

    tricklers = [asyncio.create_task(trickle()) for _ in range(20)]
    served = await service.post(send(keys, transaction()))
    answers = await asyncio.wait_for(asyncio.gather(*tricklers), 9)

    assert served == 204
    assert set(answers) == {b"HTTP/1.1 503"}


async def test_a_flood_from_one_address_is_counted_and_not_written_down_and_a_right_signature_always_passes(
    service: Process, conn: asyncpg.Connection, keys: Keys
) -> None:
    async def post(sent: Sent, source: str, **changes: str) -> int:
        headers = sent.headers | changes | {"X-Forwarded-For": source}
        return (await service.http.post(CALLBACK, content=sent.body, headers=headers)).status_code

    sent = send(keys, transaction())
    flood = [await post(sent, "6.6.6.6", **{"Wechatpay-Nonce": str(n)}) for n in range(12)]
    other = await post(sent, "7.7.7.7", **{"Wechatpay-Nonce": "x"})
    pretended = await post(sent, "7.7.7.7, 6.6.6.6", **{"Wechatpay-Nonce": "y"})
    right = await post(sent, "6.6.6.6")

    assert (set(flood), other, pretended, right) == ({401}, 401, 401, 204)
    rows = await conn.fetch("select source_address, verdict, count(*) from callback_log group by 1, 2 order by 1, 2")
    assert [tuple(row) for row in rows] == [
        ("6.6.6.6", "accepted", 1),
        ("6.6.6.6", "refused", 5),
        ("7.7.7.7", "refused", 1),
    ]


async def test_all_refusals_of_a_stranger_s_notice_look_alike(service: Process, keys: Keys) -> None:
    sent = send(keys, transaction())
    changes = [
        {"Wechatpay-Nonce": "another"},
        {"Wechatpay-Serial": "PUB_KEY_ID_0"},
        {"Wechatpay-Timestamp": "1"},
        {"Wechatpay-Timestamp": "soon"},
        {"Wechatpay-Signature": "WECHATPAY/SIGNTEST/" + sent.headers["Wechatpay-Signature"][:300]},
        {"Wechatpay-Signature-Type": "WECHATPAY2-SM2-WITH-SM3"},
    ]

    answers = [await service.http.post(CALLBACK, content=sent.body, headers=sent.headers | one) for one in changes]

    def seen(answer: httpx.Response) -> tuple[int, bytes, dict[str, str]]:
        return answer.status_code, answer.content, {k: v for k, v in answer.headers.items() if k != "date"}

    assert all(seen(answer) == seen(answers[0]) for answer in answers)


def test_an_unknown_serial_is_verified_in_vain_so_that_time_does_not_tell_which_ones_are_known(
    channel: WeChat, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = send(keys, transaction()).lower | {"wechatpay-nonce": "another"}
    checked: list[int] = []
    verify = signing.verify

    def counted(key: RSAPublicKey, signature: str, message: bytes) -> None:
        checked.append(key.key_size)
        verify(key, signature, message)

    monkeypatch.setattr(signing, "verify", counted)
    for headers in (sent, sent | {"wechatpay-serial": "PUB_KEY_ID_0"}):
        with pytest.raises(Refused):
            channel.verify(headers, b"{}", datetime.now(UTC))

    assert checked == [2048, 2048]


@pytest.mark.parametrize("path", ["/v1/callbacks", "/v1/callbacks/holds"])
async def test_the_log_is_for_operators_only(service: Process, path: str) -> None:
    for authorization in ("", "Bearer wrong", "Bearer", "Basic eDp3cm9uZw==", "Basic !", "Digest operator"):
        answer = await service.http.get(path, headers={"Authorization": authorization})
        assert answer.status_code == 401
        assert "Bearer" in answer.headers["www-authenticate"]
    assert (await service.http.get(path)).status_code == 200
    assert (
        await service.http.get(path, headers={"Authorization": "Basic YW55Ym9keTpvcGVyYXRvcg=="})
    ).status_code == 200


async def test_without_a_configured_token_nobody_sees_the_log_and_the_answer_says_what_to_do(
    db: Database, keys: Keys
) -> None:
    async with Process(db, keys, ORDERLOOP_HTTP_OPERATOR_TOKEN="") as closed:
        answer = await closed.http.get("/v1/callbacks")

    assert answer.status_code == 403
    assert "ORDERLOOP_HTTP_OPERATOR_TOKEN" in answer.json()["detail"]


async def test_an_order_is_held_and_released_over_http(service: Process) -> None:
    held = await service.http.put("/v1/callbacks/holds/261122093015ABCDEFGH1234", json={"reason": "anomaly 7"})
    listed = (await service.http.get("/v1/callbacks/holds")).json()
    released = await service.http.delete("/v1/callbacks/holds/261122093015ABCDEFGH1234")

    assert (held.status_code, released.status_code) == (204, 204)
    assert [(one["order_no"], one["reason"]) for one in listed] == [("261122093015ABCDEFGH1234", "anomaly 7")]
    assert (await service.http.get("/v1/callbacks/holds")).json() == []
