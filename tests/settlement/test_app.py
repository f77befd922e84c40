"""The service as a process: from Kafka to the bank and back, and killed wherever it hurts."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import httpx
import orjson
import pytest

from orderloop import kafka, topics
from orderloop.envelope import Envelope
from orderloop.events import SettlementRequested
from orderloop.settings import KafkaSettings
from orderloop_lab.home import free_port
from tests.settlement.conftest import PAID, House, request_for, until
from tests.support.bank import SECRET, BankProcess
from tests.support.databases import Database
from tests.support.programs import Program


class Service:
    """`python -m settlement serve`, as often as a test needs it."""

    def __init__(self, database: Database, bank: BankProcess, bootstrap: str, prefix: str) -> None:
        self.port = 0  # of the process started last
        self._environ = os.environ | {
            "ORDERLOOP_POSTGRES_URL": database.app_url,
            "ORDERLOOP_KAFKA_BOOTSTRAP": bootstrap,
            "ORDERLOOP_KAFKA_TOPIC_PREFIX": prefix,
            "ORDERLOOP_BANK_BASE_URL": bank.url,
            "ORDERLOOP_BANK_SECRET": SECRET,
            "ORDERLOOP_BANK_TIMEOUT_SECONDS": "1",
            "ORDERLOOP_BANK_LEASE_SECONDS": "1.5",
            "ORDERLOOP_BANK_QUERY_SECONDS": "0.2",
            "ORDERLOOP_SETTLEMENT_PLATFORM_FEE": "60",
            "ORDERLOOP_SETTLEMENT_PLATFORM_ACCOUNT": "6222-platform",
            "ORDERLOOP_SETTLEMENT_RECEIVERS": '[{"name": "merchant", "account": "6222-merchant"}]',
        }
        self._running: list[Program] = []

    def start(self, *, failpoint: str = "") -> Program:
        self.port = free_port()
        process = Program(
            *("settlement", "serve"),
            env=self._environ | {"FAILPOINT": failpoint, "ORDERLOOP_HTTP_PORT": str(self.port)},
        )
        self._running.append(process)
        return process

    def get(self, path: str) -> httpx.Response | None:
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}{path}", trust_env=False)
        except httpx.TransportError:
            return None

    def kill_all(self) -> None:
        for process in self._running:
            process.kill()
            process.wait()


@pytest.fixture
def service(
    settlement_database: Database, bank: BankProcess, kafka_bootstrap: str, topic_prefix: str
) -> Iterator[Service]:
    service = Service(settlement_database, bank, kafka_bootstrap, topic_prefix)
    yield service
    service.kill_all()


@pytest.fixture
def service_without_kafka(settlement_database: Database, bank: BankProcess) -> Iterator[Service]:
    service = Service(settlement_database, bank, f"127.0.0.1:{free_port()}", "")
    yield service
    service.kill_all()


async def until_status(house: House, order_no: str, status: str) -> None:
    async with asyncio.timeout(30):
        while True:
            if await house.status(order_no) == status:
                return
            await asyncio.sleep(0.02)  # between two looks


@pytest.mark.parametrize("nth", [1, 2])
@pytest.mark.parametrize(
    "failpoint", ["settlement.before_bank_call", "settlement.after_send", "settlement.after_answer"]
)
async def test_killed_anywhere_around_the_call_it_pays_once(
    *,
    service_without_kafka: Service,
    house: House,
    bank: BankProcess,
    order_no: str,
    failpoint: str,
    nth: int,
) -> None:
    bank.will(order_no=order_no, answer="dropped")  # so that there is a second sending to be killed at
    await house.take_in(request_for(order_no))

    killed = service_without_kafka.start(failpoint=f"{failpoint}:kill@{nth}")
    assert await asyncio.to_thread(killed.wait, 30) == -signal.SIGKILL
    service_without_kafka.start()
    await until_status(house, order_no, "success")

    assert bank.paid(order_no) == PAID
    assert (await house.published(order_no))[-1] == "1:SUCCESS"
    assert len(set(await house.published(order_no))) == len(await house.published(order_no))
    keys = {line["instruction_id"] for line in bank.ledger(order_no)["calls"]}
    assert keys == {f"{order_no}_P1"}


async def test_a_worker_that_hangs_after_sending_does_not_keep_the_money_open(
    service_without_kafka: Service, house: House, bank: BankProcess, order_no: str
) -> None:
    await house.take_in(request_for(order_no))
    service_without_kafka.start(failpoint="settlement.after_send:hang")
    await until_status(house, order_no, "sending")
    await until(lambda: bool(bank.paid(order_no)))

    service_without_kafka.start()
    await until_status(house, order_no, "success")

    assert bank.paid(order_no) == PAID


async def requested(bootstrap: str, prefix: str, events: Sequence[tuple[str, bytes]]) -> None:
    """Publish settlement requests as order-core does: (order_no, body)."""
    settings = KafkaSettings.model_validate({"bootstrap": bootstrap, "topic_prefix": prefix})
    async with kafka.producer(settings, client_id="test") as producer:
        for order_no, body in events:
            envelope = Envelope(
                f"{order_no}_P1:requested",
                "/order-core",
                topics.SETTLEMENT_REQUESTED,
                datetime.now(UTC),
                order_no,
                "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            )
            await producer.send_and_wait(
                prefix + topics.SETTLEMENT_REQUESTED, body, key=order_no.encode(), headers=envelope.headers()
            )


async def results(bootstrap: str, prefix: str, topic: str, count: int) -> list[tuple[dict[str, str], Any]]:
    """The first `count` records of a topic: headers and body."""
    settings = KafkaSettings.model_validate({"bootstrap": bootstrap, "topic_prefix": prefix})
    found: list[tuple[dict[str, str], Any]] = []
    async with asyncio.timeout(60), kafka.consumer(settings, group="test", topics=[topic]) as consumer:
        async for record in consumer:
            headers = {name: value.decode() for name, value in record.headers}
            found.append((headers, record.value))
            if len(found) == count:
                return found
    return found


async def test_a_request_from_kafka_comes_back_as_a_success_in_the_same_trace(
    *,
    service: Service,
    bank: BankProcess,
    order_no: str,
    kafka_bootstrap: str,
    topic_prefix: str,
    create_topics: Callable[..., Awaitable[None]],
) -> None:
    await create_topics(topic_prefix)
    bank.will(order_no=order_no, settle_seconds=0.5)
    body = SettlementRequested(
        order_no=order_no,
        instruction_id=f"{order_no}_P1",
        channel="wechat",
        transaction_ids=("4200001",),
        amount_fen=9_900,
    ).encode()
    service.start()
    await requested(kafka_bootstrap, topic_prefix, [(order_no, body), (order_no, body), (order_no, b"{nonsense")])

    found = await results(kafka_bootstrap, topic_prefix, topics.SETTLEMENT_RESULT, 2)
    (_, parked), = await results(
        kafka_bootstrap, topic_prefix, topics.dead_letters(topics.SETTLEMENT_REQUESTED, "settlement"), 1
    )  # fmt: skip

    assert [headers["ce_id"] for headers, _ in found] == [f"{order_no}_P1:1:PROCESSING", f"{order_no}_P1:1:SUCCESS"]
    assert {headers["ce_source"] for headers, _ in found} == {"/settlement"}
    assert {headers["traceparent"].split("-")[1] for headers, _ in found} == {"0af7651916cd43dd8448eb211c80319c"}
    assert orjson.loads(found[1][1])["arrived_at"] is not None
    assert parked == b"{nonsense"
    assert bank.paid(order_no) == PAID
    ready = await asyncio.to_thread(service.get, "/readyz")
    assert ready is not None
    assert ready.json() == {"kafka": "ok", "postgres": "ok"}


async def test_without_kafka_it_lives_and_pays_but_is_not_ready(
    service_without_kafka: Service, house: House, bank: BankProcess, order_no: str
) -> None:
    await house.take_in(request_for(order_no))
    service_without_kafka.start()
    await until_status(house, order_no, "success")

    alive, ready = service_without_kafka.get("/livez"), service_without_kafka.get("/readyz")

    assert bank.paid(order_no) == PAID
    assert alive is not None
    assert alive.status_code == 200
    assert ready is not None
    assert (ready.status_code, ready.json()["postgres"]) == (503, "ok")
    metrics = service_without_kafka.get("/metrics")
    assert metrics is not None
    assert 'orderloop_settlement_results_total{status="success"} 1.0' in metrics.text


async def test_told_to_stop_it_goes_in_time_although_the_bank_is_slow(
    service_without_kafka: Service, house: House, bank: BankProcess, order_no: str
) -> None:
    bank.will(order_no=order_no, answer="slow")
    await house.take_in(request_for(order_no))
    process = service_without_kafka.start()
    await until_status(house, order_no, "sending")

    process.terminate()

    assert await asyncio.to_thread(process.wait, 12) == 0
