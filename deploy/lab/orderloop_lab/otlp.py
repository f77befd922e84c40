"""Where traces go while no Jaeger is built: takes OTLP over HTTP, answers the part of Jaeger's query API we ask.

    python -m orderloop_lab.otlp PORT

    POST /v1/traces                                       protobuf, plain or gzip
    GET  /api/services
    GET  /api/traces?service=S[&operation=][&tags={"order_no":"X"}][&limit=]   all tags on one span, values as text
    GET  /api/traces/{trace id in hex}

Newest traces are kept, in memory; the same assertions hold against a real Jaeger.
"""

import gzip
import json
import sys
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import uvicorn
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span, Status
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

MAX_SPANS = 50_000  # about 150 MB
DEFAULT_LIMIT = 100  # traces per answer, as Jaeger has it

Json = dict[str, Any]


class Traces:
    """Jaeger's JSON, span by span, the oldest trace first."""

    def __init__(self, max_spans: int = MAX_SPANS) -> None:
        self._max_spans = max_spans
        self._spans = 0
        self._traces: OrderedDict[str, list[tuple[Json, Json]]] = OrderedDict()  # trace id: (span, process)

    def add(self, request: ExportTraceServiceRequest) -> None:
        for resource in request.resource_spans:
            process = _process(resource)
            for scope in resource.scope_spans:
                for span in scope.spans:
                    self._traces.setdefault(span.trace_id.hex(), []).append((_span(span, scope), process))
                    self._spans += 1
        while self._spans > self._max_spans and len(self._traces) > 1:
            _, forgotten = self._traces.popitem(last=False)
            self._spans -= len(forgotten)

    def services(self) -> list[str]:
        return sorted({process["serviceName"] for spans in self._traces.values() for _, process in spans})

    def get(self, trace_id: str) -> Json | None:
        spans = self._traces.get(trace_id)
        return _trace(trace_id, spans) if spans else None

    def find(self, service: str, operation: str | None, tags: dict[str, str], limit: int) -> list[Json]:
        """The newest `limit` traces of which one span of `service` carries all `tags`."""

        def wanted(span: Json, process: Json) -> bool:
            carried = {tag["key"]: _text(tag["value"]) for tag in span["tags"]}
            return (
                process["serviceName"] == service
                and operation in (None, span["operationName"])
                and tags.items() <= carried.items()
            )

        newest_first = reversed(self._traces.items())
        found = ((name, spans) for name, spans in newest_first if any(wanted(*one) for one in spans))
        return [_trace(name, spans) for (name, spans), _ in zip(found, range(limit), strict=False)]


def create_app(traces: Traces) -> Starlette:
    async def export(request: Request) -> Response:
        body = await request.body()
        try:
            plain = gzip.decompress(body) if request.headers.get("content-encoding") == "gzip" else body
            traces.add(ExportTraceServiceRequest.FromString(plain))
        except (DecodeError, gzip.BadGzipFile) as error:
            return _refuse(400, str(error))
        return Response(b"", media_type="application/x-protobuf")

    async def services(_: Request) -> Response:
        return _answer(traces.services())

    async def search(request: Request) -> Response:
        query = request.query_params
        if "service" not in query:
            return _refuse(400, "parameter 'service' is required")
        try:
            tags: dict[str, str] = json.loads(query.get("tags", "{}"))
        except ValueError:
            return _refuse(400, "parameter 'tags' is not a JSON object")
        limit = int(query.get("limit", DEFAULT_LIMIT))
        return _answer(traces.find(query["service"], query.get("operation"), tags, limit))

    async def trace(request: Request) -> Response:
        found = traces.get(request.path_params["trace_id"])
        return _answer([found]) if found else _refuse(404, "trace not found")

    async def livez(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    return Starlette(
        routes=[
            Route("/v1/traces", export, methods=["POST"]),
            Route("/api/services", services),
            Route("/api/traces", search),
            Route("/api/traces/{trace_id}", trace),
            Route("/livez", livez),
        ]
    )


def _answer(data: list[Any]) -> JSONResponse:
    return JSONResponse({"data": data, "total": len(data), "limit": 0, "offset": 0, "errors": None})


def _refuse(code: int, message: str) -> JSONResponse:
    errors = [{"code": code, "msg": message}]
    return JSONResponse({"data": None, "total": 0, "limit": 0, "offset": 0, "errors": errors}, status_code=code)


def _trace(trace_id: str, spans: list[tuple[Json, Json]]) -> Json:
    processes: list[Json] = []
    shown: list[Json] = []
    for span, process in spans:
        if process not in processes:
            processes.append(process)
        shown.append({**span, "processID": f"p{processes.index(process) + 1}"})
    named = {f"p{number}": process for number, process in enumerate(processes, start=1)}
    return {"traceID": trace_id, "spans": shown, "processes": named, "warnings": None}


def _process(resource: ResourceSpans) -> Json:
    tags = _tags(resource.resource.attributes)
    service = next((tag["value"] for tag in tags if tag["key"] == "service.name"), "unknown_service")
    return {"serviceName": service, "tags": [tag for tag in tags if tag["key"] != "service.name"]}


def _span(span: Span, scope: ScopeSpans) -> Json:
    trace_id = span.trace_id.hex()
    references = [_reference("FOLLOWS_FROM", link.trace_id.hex(), link.span_id) for link in span.links]
    if span.parent_span_id:
        references.insert(0, _reference("CHILD_OF", trace_id, span.parent_span_id))
    return {
        "traceID": trace_id,
        "spanID": span.span_id.hex(),
        "operationName": span.name,
        "references": references,
        "startTime": span.start_time_unix_nano // 1000,
        "duration": (span.end_time_unix_nano - span.start_time_unix_nano) // 1000,
        "tags": sorted([*_tags(span.attributes), *_derived(span, scope)], key=lambda tag: tag["key"]),
        "logs": [
            {
                "timestamp": event.time_unix_nano // 1000,
                "fields": [_tag("event", event.name), *_tags(event.attributes)],
            }
            for event in span.events
        ],
        "warnings": None,
    }


def _reference(kind: str, trace_id: str, span_id: bytes) -> Json:
    return {"refType": kind, "traceID": trace_id, "spanID": span_id.hex()}


def _derived(span: Span, scope: ScopeSpans) -> Iterable[Json]:
    """What Jaeger shows as tags although OpenTelemetry keeps it elsewhere."""
    if scope.scope.name:
        yield _tag("otel.scope.name", scope.scope.name)
    if scope.scope.version:
        yield _tag("otel.scope.version", scope.scope.version)
    if span.kind != Span.SPAN_KIND_UNSPECIFIED:
        yield _tag("span.kind", Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower())
    if span.status.code == Status.STATUS_CODE_ERROR:
        yield _tag("error", True)
    if span.status.code != Status.STATUS_CODE_UNSET:
        yield _tag("otel.status_code", Status.StatusCode.Name(span.status.code).removeprefix("STATUS_CODE_"))
    if span.status.message:
        yield _tag("otel.status_description", span.status.message)


def _tags(attributes: Iterable[KeyValue]) -> list[Json]:
    return [_tag(attribute.key, _value(attribute.value)) for attribute in attributes]


def _tag(key: str, value: object) -> Json:
    match value:
        case bool():
            kind = "bool"
        case int():
            kind = "int64"
        case float():
            kind = "float64"
        case _:
            kind = "string"
    return {"key": key, "type": kind, "value": value}


def _value(value: AnyValue) -> object:
    match value.WhichOneof("value"):
        case "array_value":
            return json.dumps([_value(one) for one in value.array_value.values], separators=(",", ":"))
        case "kvlist_value":
            return json.dumps({one.key: _value(one.value) for one in value.kvlist_value.values}, separators=(",", ":"))
        case "bytes_value":
            return value.bytes_value.hex()
        case None:
            return ""
        case kind:
            return getattr(value, kind)


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


if __name__ == "__main__":
    uvicorn.run(create_app(Traces()), host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
