"""The channel and payment-callback, each a process: what the channel knows was paid, the outbox knows once."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from orderloop_lab.simulators.wechat_keys import APPID, Keys, open_keys, prepare
from tests.support.databases import Database
from tests.support.payment_callback import CALLBACK, Process
from tests.support.simulator import SimulatorProcess


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wechat")
    prepare(folder)
    return folder


@pytest.fixture
def keys(state: Path) -> Keys:
    return open_keys(state)


@pytest.fixture
def db(database: Callable[[str], Database]) -> Database:
    return database("payment_callback")


@pytest_asyncio.fixture
async def service(db: Database, keys: Keys) -> AsyncIterator[Process]:
    async with Process(db, keys) as service:
        yield service


@pytest.fixture
def channel(state: Path, service: Process) -> Iterator[SimulatorProcess]:
    for ledger in state.glob("wechat.sqlite3*"):  # the keys stay, they take a second to make
        ledger.unlink()
    with SimulatorProcess(
        "wechat", state, SIM_SEED="7", SIM_TIME_FACTOR="200", SIM_NOTIFY_URL=service.url + CALLBACK
    ) as channel:
        yield channel


# Each a fault story, by the order it happens to.
STORIES: dict[str, dict[str, Any]] = {
    "plain": {},
    "by_certificate": {"key_mode": "certificate"},
    "during_switch_over": {"key_mode": "mixed", "duplicates": 3},
    "twice_at_once": {"simultaneous": 2},
    "repeated": {"duplicates": 2, "simultaneous": 2},
    "first_lost": {"lose_first": 2},
    "probed_first": {"probe": 1},
    "probed_by_certificate": {"probe": 2, "key_mode": "certificate"},
    "forged_first": {"forge": 2},
    "tampered_first": {"tamper": 1},
    "broken_tag_first": {"break_tag": 1},
    "answer_lost": {"lose_answer": 3},
    "no_associated_data": {"associated_data": ""},
    "clock_almost_off": {"clock_skew": -290},
}


async def test_whatever_goes_wrong_on_the_way_every_payment_arrives_exactly_once(
    channel: SimulatorProcess, service: Process, db: Database
) -> None:
    orders = {f"261122093015ABCDEFGH{number:04d}": story for number, story in enumerate(STORIES)}
    for order_no, story in orders.items():
        channel.tell("/sim/pay", out_trade_no=order_no, amount_fen=9900, faults=STORIES[story])

    async with asyncio.timeout(30):
        while True:
            notices = channel.read("/sim/ledger")["notices"]
            if all(notice["state"] == "acknowledged" for notice in notices):
                break
            await asyncio.sleep(0.05)  # between two looks into the channel's books

    conn = await asyncpg.connect(db.owner_url)
    try:
        staged = await conn.fetch("select order_no, event_id from outbox")
        accepted = await conn.fetch("select order_nos[1] as order_no from callback_log where verdict = 'accepted'")
        refused = await conn.fetch("select reason from callback_log where verdict = 'refused' order by reason")
    finally:
        await conn.close()
    truth = {
        (transaction["out_trade_no"], f"wechat:{transaction['transaction_id']}:paid")
        for transaction in channel.read("/sim/ledger")["transactions"]
    }
    assert sorted((row["order_no"], row["event_id"]) for row in staged) == sorted(truth)
    assert sorted(row["order_no"] for row in accepted) == sorted(orders)
    assert [row["reason"] for row in refused] == ["bad_signature"] * 3 + ["probe"] * 3 + ["undecryptable"]


async def test_what_must_not_pass_is_refused_as_often_as_it_comes(channel: SimulatorProcess, db: Database) -> None:
    reasons = {
        "261122093015ABCDEFGH0001": ({"clock_skew": 360}, "clock"),
        "261122093015ABCDEFGH0002": ({"clock_skew": -360}, "clock"),
        "261122093015ABCDEFGH0003": ({"overrides": {"mchid": "1900000001"}}, "wrong_merchant"),
        "261122093015ABCDEFGH0004": ({"overrides": {"appid": APPID + "x"}}, "wrong_merchant"),
    }
    for order_no, (faults, _) in reasons.items():
        channel.tell("/sim/pay", out_trade_no=order_no, amount_fen=9900, faults=faults)

    async with asyncio.timeout(30):
        while True:
            notices = channel.read("/sim/ledger")["notices"]
            if all(notice["attempts"] >= 3 for notice in notices):
                break
            await asyncio.sleep(0.05)  # between two looks into the channel's books

    attempts = channel.read("/sim/ledger")["attempts"]
    assert {attempt["status"] for attempt in attempts if attempt["attempt"] <= 3} == {400, 401}
    conn = await asyncpg.connect(db.owner_url)
    try:
        assert await conn.fetchval("select count(*) from outbox") == 0
        logged = {row["reason"] for row in await conn.fetch("select reason from callback_log")}
    finally:
        await conn.close()
    assert logged == {reason for _, reason in reasons.values()}
