"""The small receiver answers as Jaeger does, as a process and over the wire."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode

from orderloop_lab import tracing
from orderloop_lab.otlp import Traces
from tests.support.homes import own_home


@pytest.fixture
async def receiver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tracing.Tracing]:
    monkeypatch.setenv("ORDERLOOP_LAB_CACHE", str(tmp_path / "cache"))  # where no Jaeger has been built
    async with own_home(tmp_path / "lab") as (home, supervisor):
        yield await tracing.start(home, supervisor)


@pytest.fixture
async def query(receiver: tracing.Tracing) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=receiver.query_url, trust_env=False) as client:
        yield client


def export(receiver: tracing.Tracing, service: str, compression: Compression = Compression.NoCompression) -> str:
    """One trace of two spans; returns its id."""
    provider = TracerProvider(resource=Resource.create({"service.name": service}))
    exporter = OTLPSpanExporter(f"{receiver.endpoint}/v1/traces", compression=compression)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("orderloop")
    attributes = {"order_no": "X", "lines": 3, "late": True}
    with tracer.start_as_current_span("apply", kind=SpanKind.SERVER, attributes=attributes) as parent:
        with tracer.start_as_current_span("ship") as child:
            child.add_event("refused", {"reason": "no stock"})
            child.set_status(Status(StatusCode.ERROR, "no stock"))
        trace_id = format(parent.get_span_context().trace_id, "032x")
    provider.shutdown()
    return trace_id


async def found(query: httpx.AsyncClient, **parameters: str) -> list[dict[str, Any]]:
    return (await query.get("/api/traces", params=parameters)).raise_for_status().json()["data"]


@pytest.mark.parametrize("compression", [Compression.NoCompression, Compression.Gzip])
async def test_a_trace_is_found_by_order_no_and_by_its_id(
    receiver: tracing.Tracing, query: httpx.AsyncClient, compression: Compression
) -> None:
    trace_id = export(receiver, "order-core", compression)
    [trace] = await found(query, service="order-core", tags='{"order_no":"X","lines":"3","late":"true"}')
    assert trace["traceID"] == trace_id
    assert (await query.get(f"/api/traces/{trace_id}")).json()["data"] == [trace]


async def test_spans_have_the_shape_that_jaeger_gives_them(receiver: tracing.Tracing, query: httpx.AsyncClient) -> None:
    export(receiver, "order-core")
    [trace] = await found(query, service="order-core")
    spans = {span["operationName"]: span for span in trace["spans"]}
    parent, child = spans["apply"], spans["ship"]
    [reference] = child["references"]
    assert reference == {"refType": "CHILD_OF", "traceID": trace["traceID"], "spanID": parent["spanID"]}
    assert trace["processes"][child["processID"]]["serviceName"] == "order-core"
    assert {"key": "span.kind", "type": "string", "value": "server"} in parent["tags"]
    assert {"key": "lines", "type": "int64", "value": 3} in parent["tags"]
    assert {"key": "error", "type": "bool", "value": True} in child["tags"]
    assert child["logs"][0]["fields"] == [
        {"key": "event", "type": "string", "value": "refused"},
        {"key": "reason", "type": "string", "value": "no stock"},
    ]
    assert 0 <= child["duration"] <= parent["duration"]


async def test_several_tags_must_stand_on_one_span_of_the_service(
    receiver: tracing.Tracing, query: httpx.AsyncClient
) -> None:
    export(receiver, "order-core")
    assert await found(query, service="order-core", tags='{"order_no":"X","error":"true"}') == []
    assert await found(query, service="settlement", tags='{"order_no":"X"}') == []
    assert await found(query, service="order-core", operation="nothing") == []


async def test_services_are_listed_and_mistakes_are_refused(
    receiver: tracing.Tracing, query: httpx.AsyncClient
) -> None:
    export(receiver, "settlement")
    export(receiver, "order-core")
    assert (await query.get("/api/services")).json()["data"] == ["order-core", "settlement"]
    assert (await query.get("/api/traces")).status_code == 400
    assert (await query.get("/api/traces?service=order-core&tags=x")).status_code == 400
    assert (await query.get("/api/traces/" + "0" * 32)).status_code == 404
    assert (await query.post("/v1/traces", content=b"no protobuf")).status_code == 400


def test_the_oldest_traces_make_room_for_the_newest() -> None:
    traces = Traces(max_spans=10)
    for number in range(25):
        span = Span(trace_id=number.to_bytes(16, "big"), span_id=b"12345678", name="one")
        spans = ResourceSpans(scope_spans=[ScopeSpans(spans=[span])])
        traces.add(ExportTraceServiceRequest(resource_spans=[spans]))
    kept = traces.find("unknown_service", None, {}, limit=100)
    assert [int(trace["traceID"], 16) for trace in kept] == list(range(24, 14, -1))
