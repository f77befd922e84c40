"""One trace from the channel's request to the event: found by its order, carried on by the outbox."""

from collections.abc import AsyncIterator, Callable

import asyncpg
import httpx
import pytest
import pytest_asyncio
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pydantic import SecretStr

from orderloop import postgres
from orderloop.clock import SystemClock
from orderloop.settings import HttpSettings, PostgresSettings
from orderloop_lab.simulators.wechat_keys import Keys
from payment_callback.app import build
from payment_callback.channels.wechat import WeChat
from payment_callback.settings import CallbackSettings
from tests.support.databases import Database
from tests.support.payment_callback import CALLBACK
from tests.support.wechat import ORDER_NO, combined, send, transaction

HTTP = HttpSettings(operator_token=SecretStr("operator"))
OPERATOR = {"Authorization": "Bearer operator"}
ORDER_NOS = ("261122093016ABCDEFGH1235", "261122093016ABCDEFGH1236")


@pytest.fixture(scope="module")
def exporter() -> InMemorySpanExporter:
    """OpenTelemetry takes one provider per process, for good: this one is added to whatever is there."""
    exporter = InMemorySpanExporter()
    provider = trace.get_tracer_provider()
    if not isinstance(provider, TracerProvider):
        provider = TracerProvider()
        trace.set_tracer_provider(provider)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return exporter


@pytest_asyncio.fixture
async def service(db: Database, channel: WeChat) -> AsyncIterator[httpx.AsyncClient]:
    async with postgres.pool(PostgresSettings(url=SecretStr(db.app_url)), application_name="test") as pool:
        app = build(pool, channels=[channel], settings=CallbackSettings(), clock=SystemClock(), http_settings=HTTP)
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://callback", headers=OPERATOR
        ) as client:
            yield client


@pytest.fixture
def db(database: Callable[[str], Database]) -> Database:
    return database("payment_callback")


async def traces(db: Database) -> dict[str, str]:
    """order_no -> trace id, as the outbox will carry it on."""
    conn = await asyncpg.connect(db.owner_url)
    try:
        return {row["order_no"]: row["traceparent"][3:35] for row in await conn.fetch("select * from outbox")}
    finally:
        await conn.close()


async def test_the_channels_request_is_found_by_its_order_and_the_event_belongs_to_its_trace(
    service: httpx.AsyncClient, db: Database, keys: Keys, exporter: InMemorySpanExporter
) -> None:
    exporter.clear()
    sent = send(keys, transaction())

    await service.post(CALLBACK, content=sent.body, headers=sent.headers)

    spans = exporter.get_finished_spans()
    (server,) = [span for span in spans if span.kind is trace.SpanKind.SERVER]
    assert server.attributes is not None
    assert server.attributes["order_no"] == ORDER_NO
    assert server.context is not None
    assert await traces(db) == {ORDER_NO: f"{server.context.trace_id:032x}"}
    logged = (await service.get("/v1/callbacks", params={"order_no": ORDER_NO})).json()["callbacks"]
    assert [callback["trace_id"] for callback in logged] == [f"{server.context.trace_id:032x}"]


async def test_a_combined_payment_is_found_by_each_of_its_orders(
    service: httpx.AsyncClient, db: Database, keys: Keys, exporter: InMemorySpanExporter
) -> None:
    exporter.clear()
    sent = send(keys, combined((ORDER_NOS[0], "T1"), (ORDER_NOS[1], "T2")))

    await service.post(CALLBACK, content=sent.body, headers=sent.headers)

    found = {
        span.attributes["order_no"]: f"{span.context.trace_id:032x}"
        for span in exporter.get_finished_spans()
        if span.name == "combined payment" and span.attributes is not None and span.context is not None
    }
    assert set(found) == set(ORDER_NOS)
    assert await traces(db) == found
