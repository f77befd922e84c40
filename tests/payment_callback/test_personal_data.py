"""What a payer is to the channel leaves no trace with us but the callback's own row: canary values, no hits."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import asyncpg
import httpx
import pytest_asyncio

from orderloop_lab.home import free_port
from orderloop_lab.simulators.alipay_keys import open_keys as open_alipay_keys
from orderloop_lab.simulators.wechat_keys import Keys
from tests.support import alipay
from tests.support.databases import Database
from tests.support.payment_callback import Process
from tests.support.wechat import Sent, combined, refund, send, transaction

OPENID, PHONE, NAME = "oCanaryCanaryCanaryCanary099", "13800009999", "金丝雀先生"
ACCOUNT = f"招商银行信用卡{PHONE}"


@pytest_asyncio.fixture
async def collector() -> AsyncIterator[str]:
    port = free_port()
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "orderloop_lab.otlp", str(port))
    async with httpx.AsyncClient(trust_env=False) as client, asyncio.timeout(20):
        while True:
            try:
                await client.get(f"http://127.0.0.1:{port}/api/services")
                break
            except httpx.TransportError:
                await asyncio.sleep(0.05)  # between two looks at whether it listens yet
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    await process.wait()


async def tell(service: Process, keys: Keys, alipay_keys: alipay.Keys, conn: asyncpg.Connection) -> list[int | None]:
    """Every way a notice can go, with the payer in it wherever a channel puts him."""
    payer = {"payer": {"openid": OPENID, "name": NAME}, "attach": f"{NAME} {PHONE}"}
    paid = send(keys, transaction(**payer))
    sub_orders = combined(("261122093016ABCDEFGH9999", "T1")) | {"combine_payer_info": {"openid": OPENID}}
    odd = transaction(**payer, success_time=PHONE)  # what is not understood is complained of without its values
    notices = [
        paid,
        paid,
        Sent(paid.headers | {"Wechatpay-Nonce": "another"}, paid.body),
        send(keys, sub_orders),
        send(keys, refund(user_received_account=ACCOUNT)),
        send(keys, odd),
        send(keys, transaction(**payer, out_trade_no="another-shop-77", transaction_id="T5")),
        Sent({"Content-Type": "application/json"}, f'{{"openid": "{OPENID}", "phone": "{PHONE}"}}'.encode()),
    ]
    answers = [await service.post(notice) for notice in notices]
    form = alipay.trade(buyer_logon_id=PHONE, buyer_id="2088" + PHONE, subject=NAME, body=PHONE)
    for fields in (form, form | {"gmt_payment": PHONE}):
        sent = alipay.send(alipay_keys, fields)
        told = await service.http.post("/v1/order/callback/alipay", content=sent.body, headers=sent.headers)
        answers.append(told.status_code)
    # a database that refuses a row quotes it
    await conn.execute("alter table callback_memory add constraint canary check (event_id <> 'wechat:T9:paid')")
    answers.append(await service.post(send(keys, transaction(**payer, transaction_id="T9"))))
    return answers


async def test_no_log_trace_metric_event_or_page_shows_the_payer(
    database: Callable[[str], Database], keys: Keys, collector: str, tmp_path: Path
) -> None:
    db = database("payment_callback")
    conn = await asyncpg.connect(db.owner_url)
    alipay_keys = open_alipay_keys(tmp_path)
    try:
        async with Process(
            db,
            keys,
            output=tmp_path / "log",
            ORDERLOOP_TRACING_ENDPOINT=collector,
            ORDERLOOP_LOG_LEVEL="DEBUG",
            **alipay_keys.settings(),
        ) as service:
            answers = await tell(service, keys, alipay_keys, conn)
            shown = {
                "search": (await service.http.get("/v1/callbacks")).text,
                "metrics": (await service.http.get("/metrics")).text,
                "pages": await _pages(service),
            }
            assert await service.stop() == 0
        async with httpx.AsyncClient(trust_env=False) as client:
            found = await client.get(f"{collector}/api/traces", params={"service": "payment-callback", "limit": 200})
        shown["traces"] = found.text
        shown["events"] = str(await conn.fetch("select event_id, convert_from(body, 'utf8') from outbox"))
        shown["memory"] = str(await conn.fetch("select event_id, convert_from(body, 'utf8') from callback_memory"))
        shown["reasons"] = str(await conn.fetch("select reason, detail, headers from callback_log"))
    finally:
        await conn.close()
    shown["log"] = (tmp_path / "log").read_text(encoding="utf-8")

    assert answers == [204, 204, 401, 204, 204, 422, 204, 401, 200, 422, 503]
    assert "store callbacks" in shown["traces"]
    assert "callback not stored" in shown["log"]
    for where, text in shown.items():
        for canary in (OPENID, PHONE, NAME, PHONE[-8:]):
            assert canary not in text, f"{canary} in {where}"


async def _pages(service: Process) -> str:
    listed = (await service.http.get("/callbacks")).text
    links = {part.partition("?")[0] for part in listed.split('href="') if part.startswith("/callbacks/2")}
    assert len(links) == 10
    return listed + "".join([(await service.http.get(link)).text for link in sorted(links)])
