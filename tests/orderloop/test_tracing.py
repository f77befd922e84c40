"""Spans as they leave the process: one trace per order, by the messaging conventions, and none that nobody wants."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence

import asyncpg
import pytest
from opentelemetry import trace
from opentelemetry.instrumentation.asyncpg import AsyncPGInstrumentor
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from orderloop import topics, tracing
from orderloop.consume import Consumer, Received
from orderloop.health import Health
from orderloop.outbox import Relay, Staged, stage
from orderloop.settings import KafkaSettings, OutboxSettings, PostgresSettings, TracingSettings
from tests.orderloop.conftest import GROUP
from tests.support.kafka import AT, read_all, tracked, until

TOPIC = topics.PARCEL_TRACKED
TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
SAMPLED = f"00-{TRACE_ID}-00f067aa0ba902b7-01"
UNSAMPLED = f"00-{TRACE_ID}-00f067aa0ba902b7-00"
CANARY = "canary-13800138000"

Made = Callable[..., Awaitable[KafkaSettings]]


@pytest.fixture(scope="module")
def _exporter() -> InMemorySpanExporter:
    # OpenTelemetry takes one provider per process and never another.
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return exporter


@pytest.fixture
def exporter(_exporter: InMemorySpanExporter) -> Iterator[InMemorySpanExporter]:
    _exporter.clear()
    yield _exporter
    _exporter.clear()


def start_send(traceparent: str | None) -> tuple[trace.Span | None, str | None]:
    return tracing.start_send(TOPIC, traceparent=traceparent, order_no="O1", event_id="e1", size=7)


def start_process(traceparent: str | None) -> tuple[trace.Span | None, str | None]:
    return tracing.start_process(
        TOPIC, traceparent=traceparent, order_no="O1", event_id="e1", partition=3, offset=9, group=GROUP
    )


def context(span: ReadableSpan) -> str:
    assert span.context is not None
    return f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}-01"


def parent(span: ReadableSpan) -> str | None:
    return f"{span.parent.span_id:016x}" if span.parent else None


def test_sending_is_a_producer_span_below_what_was_stored(exporter: InMemorySpanExporter) -> None:
    span, onward = start_send(SAMPLED)
    tracing.end([span])

    (sent,) = exporter.get_finished_spans()
    assert (sent.name, sent.kind, parent(sent)) == (f"send {TOPIC}", SpanKind.PRODUCER, "00f067aa0ba902b7")
    assert onward == context(sent)
    assert onward[3:35] == TRACE_ID
    assert sent.attributes == {
        "messaging.system": "kafka",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": TOPIC,
        "messaging.message.id": "e1",
        "messaging.message.body.size": 7,
        "messaging.kafka.message.key": "O1",
        "order_no": "O1",
    }


def test_processing_is_a_consumer_span_below_and_linked_to_the_record(exporter: InMemorySpanExporter) -> None:
    span, onward = start_process(SAMPLED)
    tracing.end([span])

    (done,) = exporter.get_finished_spans()
    assert (done.name, done.kind, parent(done)) == (f"process {TOPIC}", SpanKind.CONSUMER, "00f067aa0ba902b7")
    assert [f"{link.context.span_id:016x}" for link in done.links] == ["00f067aa0ba902b7"]
    assert onward == context(done)
    assert done.attributes == {
        "messaging.system": "kafka",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": TOPIC,
        "messaging.destination.partition.id": "3",
        "messaging.consumer.group.name": GROUP,
        "messaging.message.id": "e1",
        "messaging.kafka.message.key": "O1",
        "messaging.kafka.offset": 9,
        "order_no": "O1",
    }


@pytest.mark.parametrize("traceparent", [None, UNSAMPLED, "", "01-" + UNSAMPLED[3:] + "-xx1"])
@pytest.mark.parametrize("start", [start_send, start_process])
def test_what_is_not_sampled_makes_no_span_and_is_passed_on_as_it_is(
    exporter: InMemorySpanExporter,
    start: Callable[[str | None], tuple[trace.Span | None, str | None]],
    traceparent: str | None,
) -> None:
    assert start(traceparent) == (None, traceparent)
    assert exporter.get_finished_spans() == ()


def test_a_batch_is_one_span_of_its_own_linked_to_its_events(exporter: InMemorySpanExporter) -> None:
    spans = [start_process(SAMPLED)[0], None, start_process(SAMPLED)[0]]
    with tracing.batch(spans, group=GROUP, count=3):
        inside = tracing.current_traceparent()
    tracing.end(spans)

    batched, *events = exporter.get_finished_spans()
    assert (batched.name, batched.kind, batched.parent) == ("process", SpanKind.CONSUMER, None)
    assert inside is not None
    assert inside[:52] == context(batched)[:52]  # the flags may say more than sampled
    assert {link.context.span_id for link in batched.links} == {one.context.span_id for one in events if one.context}
    assert batched.attributes is not None
    assert batched.attributes["messaging.batch.message_count"] == 3
    assert batched.attributes["messaging.consumer.group.name"] == GROUP


def test_a_failure_marks_every_span_and_quotes_nothing(exporter: InMemorySpanExporter) -> None:
    spans = [start_process(SAMPLED)[0]]

    def work() -> None:
        with tracing.batch(spans, group=GROUP, count=1), tracing.span("decide", order_no="O1"):
            raise ValueError(CANARY)

    with pytest.raises(ValueError, match=CANARY):
        work()
    tracing.end(spans)

    finished = exporter.get_finished_spans()
    assert {one.name for one in finished} == {"decide", "process", f"process {TOPIC}"}
    for one in finished:
        assert one.attributes is not None
        assert (one.status.status_code, one.attributes["error.type"]) == (StatusCode.ERROR, "ValueError")
        assert CANARY not in one.to_json()


def test_a_step_stands_below_the_given_context_or_what_runs(exporter: InMemorySpanExporter) -> None:
    with tracing.span("outer", order_no="O1", traceparent=SAMPLED), tracing.span("inner", order_no="O1", tries=2):
        assert tracing.trace_id() == TRACE_ID

    inner, outer = exporter.get_finished_spans()
    assert parent(outer) == "00f067aa0ba902b7"
    assert parent(inner) == context(outer)[36:52]
    assert inner.attributes == {"order_no": "O1", "tries": 2}
    assert tracing.trace_id() is None
    assert tracing.current_traceparent() is None


def test_a_trace_id_is_read_from_a_traceparent() -> None:
    assert tracing.trace_id_of(SAMPLED) == TRACE_ID
    assert tracing.trace_id_of(None) is None
    assert tracing.trace_id_of("short") is None


def test_without_an_endpoint_nothing_is_configured() -> None:
    tracing.configure(TracingSettings(endpoint=None), "order-core")()


async def test_one_trace_leads_from_the_staged_row_through_kafka_to_the_handler(
    exporter: InMemorySpanExporter,
    topics_made: Made,
    pool: asyncpg.Pool,
    postgres_settings: PostgresSettings,
    order_no: str,
) -> None:
    broker = await topics_made(TOPIC)
    onward: dict[str, str | None] = {}

    async def handle(received: Sequence[Received]) -> None:
        onward.update({one.event_id: one.traceparent for one in received})
        async with pool.acquire() as conn:
            await conn.fetchval("select 'asked within the batch'")

    async with pool.acquire() as conn, conn.transaction():
        event = tracked(order_no)
        await stage(
            conn,
            [Staged(event, "sampled", AT, SAMPLED), Staged(event, "unsampled", AT, UNSAMPLED), Staged(event, "x", AT)],
        )
    stop = asyncio.Event()
    relay = Relay(
        source="/logistics-poller",
        postgres_settings=postgres_settings,
        kafka_settings=broker,
        settings=OutboxSettings(),
    )
    consumer = Consumer(broker, group=GROUP, topics=[TOPIC], handle=handle, pool=pool, health=Health())
    AsyncPGInstrumentor().instrument()
    try:
        working = asyncio.gather(relay.run(stop), consumer.run(stop))
        await until(lambda: len(onward) == 3)
        stop.set()
        await working
    finally:
        AsyncPGInstrumentor().uninstrument()

    finished = exporter.get_finished_spans()
    (sent,) = [one for one in finished if one.name.startswith("send")]
    (processed,) = [one for one in finished if one.name == f"process {TOPIC}"]
    assert parent(sent) == "00f067aa0ba902b7"
    assert parent(processed) == context(sent)[36:52]
    assert context(processed)[3:35] == context(sent)[3:35] == TRACE_ID
    assert onward == {"sampled": context(processed), "unsampled": UNSAMPLED, "x": None}
    travelled = {
        dict(one.headers)["ce_id"]: dict(one.headers).get("traceparent") for one in await read_all(broker, TOPIC)
    }
    assert travelled == {b"sampled": context(sent).encode(), b"unsampled": UNSAMPLED.encode(), b"x": None}
    # Looking for work and finding none leaves no trace; the query within the traced batch does.
    (batched,) = [one for one in finished if one.name == "process"]
    queries = [one for one in finished if one not in (sent, processed, batched)]
    assert queries
    assert {parent(one) for one in queries} == {context(batched)[36:52]}
