"""One order can be followed through every service: in Jaeger where it is built, in the lab's receiver elsewhere.

The assertions are the same for both, and ask by the same HTTP API.
"""

import asyncio
import json
from dataclasses import dataclass
from typing import Any

import asyncpg
import httpx

from orderloop.tracing import trace_id_of
from orderloop_lab.system import Lab

SERVICES = ("payment-callback", "order-core", "logistics-poller", "settlement")
# Attribute names that OpenTelemetry has replaced (semantic conventions 1.44, messaging).
DEPRECATED = {
    "messaging.operation",
    "messaging.kafka.consumer.group",
    "messaging.kafka.message.offset",
    "messaging.kafka.destination.partition",
    "messaging.client_id",
}
WITHIN_SECONDS = 30


@dataclass(frozen=True)
class Span:
    id: str
    trace_id: str
    name: str
    service: str
    parent: str | None
    tags: dict[str, Any]


class Traces:
    """Every span of the traces that a search by order_no finds."""

    def __init__(self, found: list[dict[str, Any]]) -> None:
        self.spans: dict[str, Span] = {}
        for trace in found:
            for span in trace["spans"]:
                # Jaeger tells a parent that is linked to as well by the link alone, as FOLLOWS_FROM.
                parents = [ref["spanID"] for ref in span["references"] if ref["traceID"] == span["traceID"]]
                self.spans[span["spanID"]] = Span(
                    span["spanID"],
                    span["traceID"],
                    span["operationName"],
                    trace["processes"][span["processID"]]["serviceName"],
                    parents[0] if parents else None,
                    {tag["key"]: tag["value"] for tag in span["tags"]},
                )

    @property
    def ids(self) -> set[str]:
        return {span.trace_id for span in self.spans.values()}

    def one(self, name: str) -> Span:
        [span] = [span for span in self.spans.values() if span.name == name]
        return span

    def ancestors(self, span: Span) -> list[str]:
        names: list[str] = []
        while span.parent is not None:
            span = self.spans[span.parent]
            names.append(span.name)
        return names


async def search(lab: Lab, order_no: str) -> Traces:
    async with httpx.AsyncClient(base_url=lab.surroundings.tracing.query_url, timeout=10) as client:
        found: list[dict[str, Any]] = []
        for service in SERVICES:
            query = {"service": service, "tags": json.dumps({"order_no": order_no}), "limit": "200"}
            answer = await client.get("/api/traces", params=query)
            answer.raise_for_status()
            found += answer.json()["data"] or []
    return Traces(found)


async def test_an_orders_whole_life_is_found_by_its_number_and_hangs_together(
    lab: Lab, order: tuple[str, list[asyncpg.Record]]
) -> None:
    order_no, log = order
    logged = {trace_id_of(row["traceparent"]) for row in log}
    traces = await complete(lab, order_no, logged)

    # Searching by order_no finds every trace of the order's life.
    assert None not in logged
    assert logged <= traces.ids
    # No span is orphaned: whoever names a parent, the parent is there.
    orphans = [span.name for span in traces.spans.values() if span.parent and span.parent not in traces.spans]
    assert orphans == []
    # The payment is one trace across HTTP, the outbox, Kafka and order-core.
    paid = traces.one("process orderloop.payment-notified.v1")
    assert paid.service == "order-core"
    assert traces.ancestors(paid) == [
        "send orderloop.payment-notified.v1",
        "POST /v1/order/callback/wechat",
    ]
    assert paid.trace_id == trace_id_of(log[1]["traceparent"])
    # What the payment caused goes on in the same trace.
    assert any(
        span.name == "send orderloop.order-changed.v1" and span.parent == paid.id for span in traces.spans.values()
    )
    # A request is named by its route, not by its order.
    assert any(span.name == "POST /v1/orders/{order_no}/ship" for span in traces.spans.values())
    # The other services took part.
    assert {span.service for span in traces.spans.values()} == set(SERVICES)


async def test_messaging_spans_speak_the_current_conventions(lab: Lab, order: tuple[str, list[asyncpg.Record]]) -> None:
    order_no, log = order
    traces = await complete(lab, order_no, {trace_id_of(row["traceparent"]) for row in log})

    processed = [span for span in traces.spans.values() if span.name.startswith("process orderloop.")]
    sent = [span for span in traces.spans.values() if span.name.startswith("send orderloop.")]
    assert len(processed) >= 5
    assert len(sent) >= 10
    for span in processed + sent:
        topic = span.name.partition(" ")[2]
        assert span.tags["messaging.system"] == "kafka"
        assert span.tags["messaging.operation.name"] == span.name.partition(" ")[0]
        assert span.tags["messaging.destination.name"] == topic
        assert span.tags["messaging.kafka.message.key"] == order_no
        assert span.tags["order_no"] == order_no
        assert not DEPRECATED & set(span.tags)
    for span in processed:
        assert span.tags["messaging.consumer.group.name"] == span.service
        assert span.tags["messaging.destination.partition.id"].isdigit()
        assert int(span.tags["messaging.kafka.offset"]) >= 0
    assert {span.tags["span.kind"] for span in processed} == {"consumer"}
    assert {span.tags["span.kind"] for span in sent} == {"producer"}


async def complete(lab: Lab, order_no: str, logged: set[str | None]) -> Traces:
    """The order's traces, once the services have sent off their last spans."""
    deadline = asyncio.get_running_loop().time() + WITHIN_SECONDS
    while True:
        traces = await search(lab, order_no)
        spans = traces.spans.values()
        whole = logged <= traces.ids and all(span.parent is None or span.parent in traces.spans for span in spans)
        ended = any(span.name == "process orderloop.settlement-result.v1" for span in spans)
        if (whole and ended) or asyncio.get_running_loop().time() > deadline:
            return traces
        await asyncio.sleep(0.3)
