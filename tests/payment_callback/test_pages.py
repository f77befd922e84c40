"""The callback log as operators see it: found, explained in both languages, masked, and safe to open."""

import re
from collections.abc import AsyncIterator, Callable

import httpx
import pytest
import pytest_asyncio

from orderloop_lab.simulators.wechat_keys import Keys
from payment_callback.attempt import Verdict
from payment_callback.channels import Reason
from payment_callback.pages import words
from payment_callback.pages.words import Language
from tests.support.databases import Database
from tests.support.payment_callback import CALLBACK, Process
from tests.support.wechat import ORDER_NO, TRANSACTION_ID, Sent, send, transaction


@pytest.fixture
def db(database: Callable[[str], Database]) -> Database:
    return database("payment_callback")


@pytest_asyncio.fixture
async def service(db: Database, keys: Keys) -> AsyncIterator[Process]:
    async with Process(db, keys) as process:
        await process.post(send(keys, transaction()))
        await process.post(send(keys, transaction()))
        forged = send(keys, transaction())
        await process.post(Sent(forged.headers | {"Wechatpay-Nonce": "another"}, forged.body))
        yield process


async def page(service: Process, path: str = "/callbacks", **query: str) -> str:
    answer = await service.http.get(path, params={"lang": "en", **query})
    assert answer.status_code == 200, answer.text
    return answer.text


def verdicts(html: str) -> list[str]:
    return re.findall(r'class="verdict (\w+)"', html)


async def test_the_list_is_newest_first_and_searched_by_order_result_time_and_channel(service: Process) -> None:
    assert verdicts(await page(service)) == ["refused", "duplicate", "accepted"]
    assert verdicts(await page(service, order_no=ORDER_NO)) == ["duplicate", "accepted"]
    assert verdicts(await page(service, transaction_id=TRANSACTION_ID, result="accepted")) == ["accepted"]
    assert verdicts(await page(service, channel="wechat", result="refused")) == ["refused"]
    assert verdicts(await page(service, since="2031-01-01T00:00")) == []
    assert "No callback fits" in await page(service, channel="alipay")
    assert verdicts(await page(service, since="nonsense", result="nonsense", order_no="\0")) != []


async def test_one_callback_is_told_in_plain_words_with_its_content_masked(service: Process) -> None:
    links = re.findall(r'href="(/callbacks/[^"?]+~\d+)', await page(service))

    refused, accepted = await page(service, links[0]), await page(service, links[-1])

    assert "Signature invalid" in refused
    assert "Changed on the way" in refused
    assert "Signature valid" in accepted
    assert f"wechat:{TRANSACTION_ID}:paid" in accepted
    assert "9900" in accepted
    assert "oUpF8u" not in accepted
    assert "•••• (28)" in accepted
    assert "Mozilla" not in accepted
    gone = await service.http.get("/callbacks/2026-01-01T00:00:00+00:00~1")
    assert gone.status_code == 404


async def test_pages_follow_each_other_without_losing_the_search(service: Process, keys: Keys) -> None:
    for number in range(60):
        await service.post(send(keys, transaction(transaction_id=f"T{number}")))

    first = await page(service, order_no=ORDER_NO)
    older = re.findall(r'href="([^"]+)" rel="next"', first)[0].replace("&amp;", "&")
    second = (await service.http.get(older)).text

    assert (len(verdicts(first)), len(verdicts(second))) == (50, 12)
    assert f'value="{ORDER_NO}"' in second
    assert "Newest" in second


async def test_both_languages_are_whole(service: Process) -> None:
    chinese = (await service.http.get("/callbacks", headers={"Accept-Language": "zh-CN"})).text

    assert "支付回调日志" in chinese
    assert "已拒绝" in chinese
    for language in Language:
        assert all(words.reason(language, reason) != reason for reason in Reason)
        assert all(words.verdict(language, verdict) for verdict in Verdict)


async def test_what_strangers_send_is_text_and_the_page_runs_no_script(service: Process, keys: Keys) -> None:
    sent = send(keys, transaction())
    await service.http.post(
        CALLBACK, content=b'{"id":"<script>alert(1)</script>"}', headers=sent.headers | {"User-Agent": "<img src=x>"}
    )
    listed = await service.http.get("/callbacks", params={"order_no": '"><script>alert(1)</script>'})
    newest = re.findall(r'href="(/callbacks/[^"?]+~\d+)', await page(service))[0]
    shown = await page(service, newest)

    assert "<script" not in listed.text + shown
    assert "<img" not in shown
    assert "style=" not in shown
    policy = listed.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert (await service.http.get("/callbacks/style.css")).headers["content-type"].startswith("text/css")


async def test_a_browser_is_asked_for_the_operator_token(service: Process) -> None:
    async with httpx.AsyncClient(base_url=service.url, trust_env=False) as browser:
        asked = await browser.get("/callbacks")
        opened = await browser.get("/callbacks", auth=("anybody", "operator"))

    assert asked.status_code == 401
    assert asked.headers["www-authenticate"].startswith("Basic")
    assert opened.status_code == 200
