"""Traces: one order can be followed over HTTP, the outbox, Kafka and every service.

The Kafka instrumentation is our own and thin, on the messaging conventions of OpenTelemetry 1.44 (status Development):
the stock one overwrites a caller's context and uses attribute names that are gone.
"""

from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.asyncpg import AsyncPGInstrumentor
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.instrumentation.redis import RedisInstrumentor
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from .settings import TracingSettings

ORDER_NO = "order_no"  # the tag by which an SRE finds every trace of an order
_MOST_LINKS = 128  # the SDK's own limit per span

_tracer = trace.get_tracer("orderloop")
_w3c = TraceContextTextMapPropagator()

quiet = suppress_instrumentation  # for polling loops: nobody wants a trace of looking and finding nothing


def configure(settings: TracingSettings, service: str) -> Callable[[], None]:
    """Send spans by OTLP/HTTP, or none at all when no endpoint is set. Returns what flushes them at the end."""
    if settings.endpoint is None:
        return lambda: None
    provider = TracerProvider(
        resource=Resource.create({"service.name": service, "service.namespace": "orderloop"}),
        sampler=ParentBasedTraceIdRatio(settings.sample_ratio),
    )
    exporter = OTLPSpanExporter(endpoint=f"{settings.endpoint.rstrip('/')}/v1/traces")
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=1000))
    trace.set_tracer_provider(provider)
    AsyncPGInstrumentor().instrument()
    HTTPXClientInstrumentor().instrument()
    RedisInstrumentor().instrument()
    return provider.shutdown


def current_traceparent() -> str | None:
    """The running span as a W3C traceparent, for the outbox row that will carry it on."""
    return _traceparent(trace.get_current_span())


def tag_order(order_no: str) -> None:
    """Make the running span findable by its order."""
    trace.get_current_span().set_attribute(ORDER_NO, order_no)


@contextmanager
def span(name: str, *, order_no: str, traceparent: str | None = None, **attributes: str | int) -> Generator[Span]:
    """A step of an order's life; below `traceparent` if it is given, else below whatever runs."""
    with _tracer.start_as_current_span(
        name,
        context=_context(traceparent) if traceparent else None,
        attributes={ORDER_NO: order_no, **attributes},
        record_exception=False,  # an exception's text may quote somebody's address
        set_status_on_exception=False,
    ) as running:
        try:
            yield running
        except BaseException as error:
            fail([running], error)
            raise


def start_send(
    topic: str, *, traceparent: str | None, order_no: str, event_id: str, size: int
) -> tuple[Span | None, str | None]:
    """A PRODUCER span below the stored context, and the context that travels in the record's headers.

    An event that is not sampled costs nothing: no span, and its context is passed on as it is.
    """
    if not is_sampled(traceparent):
        return None, traceparent
    sending = _tracer.start_span(
        f"send {topic}",
        context=_context(traceparent),
        kind=SpanKind.PRODUCER,
        attributes={
            "messaging.system": "kafka",
            "messaging.operation.name": "send",
            "messaging.operation.type": "send",
            "messaging.destination.name": topic,
            "messaging.message.id": event_id,
            "messaging.message.body.size": size,
            "messaging.kafka.message.key": order_no,
            ORDER_NO: order_no,
        },
    )
    return sending, _traceparent(sending)


def is_sampled(traceparent: str | None) -> bool:
    """Whether somebody wants spans below this context; an event that is not sampled costs nothing but this look."""
    # W3C Trace Context 1, section 3.2.2: version-traceid-parentid-flags, bit 0 of the flags = sampled.
    return traceparent is not None and len(traceparent) >= 55 and traceparent[54] in "13579bdf"


def start_process(
    topic: str, *, traceparent: str | None, order_no: str, event_id: str, partition: int, offset: int, group: str
) -> tuple[Span | None, str | None]:
    """A CONSUMER span below (and linked to) the record's context, and the context for what the event will cause."""
    if not is_sampled(traceparent):
        return None, traceparent
    remote = _context(traceparent)
    processing = _tracer.start_span(
        f"process {topic}",
        context=remote,
        kind=SpanKind.CONSUMER,
        links=[Link(_span_context(remote))],
        attributes={
            "messaging.system": "kafka",
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.destination.name": topic,
            "messaging.destination.partition.id": str(partition),
            "messaging.consumer.group.name": group,
            "messaging.message.id": event_id,
            "messaging.kafka.message.key": order_no,
            "messaging.kafka.offset": offset,
            ORDER_NO: order_no,
        },
    )
    return processing, _traceparent(processing)


@contextmanager
def batch(spans: Iterable[Span | None], *, group: str, count: int) -> Generator[None]:
    """One span around a batch's transaction, linked to its events; its queries are its children.

    A batch without a sampled event leaves no trace at all.
    """
    sampled = [one for one in spans if one is not None]
    if not sampled:
        with quiet():
            yield
        return
    with _tracer.start_as_current_span(
        "process",
        context=otel_context.Context(),
        kind=SpanKind.CONSUMER,
        links=[Link(one.get_span_context()) for one in sampled[:_MOST_LINKS]],
        attributes={
            "messaging.system": "kafka",
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.consumer.group.name": group,
            "messaging.batch.message_count": count,
        },
        record_exception=False,
        set_status_on_exception=False,
    ) as batched:
        try:
            yield
        except BaseException as error:
            fail([*sampled, batched], error)
            raise


def fail(spans: Iterable[Span], error: BaseException) -> None:
    """Mark spans as failed. `error.type` is an attribute of its own, by which a trace store can be searched."""
    for one in spans:
        one.set_attribute("error.type", type(error).__qualname__)
        one.set_status(Status(StatusCode.ERROR))


def end(spans: Iterable[Span | None]) -> None:
    for one in spans:
        if one is not None:
            one.end()


def trace_id() -> str | None:
    """The running trace's id as 32 hexadecimal digits, for a log line or a timeline."""
    running = trace.get_current_span().get_span_context()
    return f"{running.trace_id:032x}" if running.is_valid else None


def trace_id_of(traceparent: str | None) -> str | None:
    """The trace id inside a W3C traceparent."""
    return traceparent[3:35] if traceparent and len(traceparent) >= 55 else None


def _context(traceparent: str | None) -> otel_context.Context:
    carrier: Mapping[str, str] = {"traceparent": traceparent} if traceparent else {}
    return _w3c.extract(carrier, context=otel_context.Context())


def _span_context(context: otel_context.Context) -> SpanContext:
    return trace.get_current_span(context).get_span_context()


def _traceparent(one: Span) -> str | None:
    inner = one.get_span_context()
    if not inner.is_valid:
        return None
    return f"00-{inner.trace_id:032x}-{inner.span_id:016x}-{int(inner.trace_flags):02x}"
