"""AsyncAPI 3 documents and JSON Schemas of the events, made from the models themselves."""

from typing import Any

import msgspec

from . import topics
from .envelope import LONGEST_ID
from .events import BY_TOPIC, Event
from .ids import ORDER_NO_PATTERN

# Who publishes what; who reads what stands in topics.GROUPS.
PUBLISHES: dict[str, tuple[str, ...]] = {
    "payment-callback": (
        topics.PAYMENT_NOTIFIED,
        topics.REFUND_NOTIFIED,
        topics.CLOSE_RESULT,
        topics.ANOMALY_RAISED,
    ),
    "order-core": (
        topics.ORDER_CHANGED,
        topics.SHIPMENT_REQUESTED,
        topics.SETTLEMENT_REQUESTED,
        topics.CLOSE_REQUESTED,
        topics.REFUND_REQUESTED,
        topics.TRACKING_REQUESTED,
    ),
    "logistics-poller": (
        topics.WAYBILL_CREATED,
        topics.PICKUP_DETECTED,
        topics.PARCEL_TRACKED,
        topics.ANOMALY_RAISED,
    ),
    "settlement": (topics.SETTLEMENT_RESULT, topics.ANOMALY_RAISED),
}

SERVICES = tuple(PUBLISHES)

_ORDER_NO: dict[str, Any] = {"type": "string", "pattern": ORDER_NO_PATTERN}
_ATTRIBUTE: dict[str, Any] = {"type": "string", "minLength": 1, "maxLength": LONGEST_ID}


def _headers(topic: str) -> dict[str, Any]:
    """What `Envelope.from_headers` takes, as far as a schema can say it of one header at a time."""
    return {
        "type": "object",
        "required": ["ce_specversion", "ce_id", "ce_source", "ce_type", "content-type"],
        "properties": {
            "ce_specversion": {"const": "1.0"},
            "ce_id": {**_ATTRIBUTE, "description": "the event's id; with ce_source it makes a repeat a repeat"},
            "ce_source": {**_ATTRIBUTE, "description": "who says so, such as /payment-callback"},
            "ce_type": {"type": "string", "const": topic, "description": "the topic's name without a prefix"},
            "ce_time": {"type": "string", "format": "date-time"},
            "ce_subject": {**_ORDER_NO, "description": "order_no, equal to the record's key"},
            "content-type": {"const": "application/json"},
            "traceparent": {"type": "string", "description": "W3C Trace Context"},
            "tracestate": {"type": "string", "description": "W3C Trace Context, beside traceparent"},
        },
    }


def schema(event: type[Event], *, at: str = "#") -> dict[str, Any]:
    """The JSON Schema (2020-12) of an event's body; `at` is where in a larger document it will stand."""
    _, parts = msgspec.json.schema_components([event], ref_template=at + "/$defs/{name}")
    for part in parts.values():
        if "description" in part:
            part["description"] = " ".join(part["description"].split())
    whole = parts.pop(event.__name__)
    return {**whole, "$defs": parts} if parts else whole


def document(service: str) -> dict[str, Any]:
    """The AsyncAPI 3.0 document of one service: a channel per topic, an operation per direction."""
    sends, receives = PUBLISHES[service], topics.GROUPS.get(service, ())
    used = sorted({*sends, *receives})
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": f"OrderLoop {service}",
            "version": "1",
            "description": "CloudEvents 1.0, binary mode, keyed by order_no (murmur2 partitioner).",
        },
        "defaultContentType": "application/json",
        "channels": {topic: _channel(topic) for topic in used},
        "operations": {
            **{f"send-{topic}": _operation("send", topic) for topic in sends},
            **{f"receive-{topic}": _operation("receive", topic) for topic in receives},
        },
        "components": {"messages": {BY_TOPIC[topic].__name__: _message(topic) for topic in used}},
    }


def _channel(topic: str) -> dict[str, Any]:
    name = BY_TOPIC[topic].__name__
    return {
        "address": topic,
        "messages": {name: {"$ref": f"#/components/messages/{name}"}},
        "bindings": {"kafka": {"partitions": topics.PARTITIONS, "bindingVersion": "0.5.0"}},
    }


def _operation(action: str, topic: str) -> dict[str, Any]:
    return {"action": action, "channel": {"$ref": f"#/channels/{topic.replace('~', '~0').replace('/', '~1')}"}}


def _message(topic: str) -> dict[str, Any]:
    event = BY_TOPIC[topic]
    # References in an AsyncAPI document count from its own root.
    payload = schema(event, at=f"#/components/messages/{event.__name__}/payload/schema")
    return {
        "name": event.__name__,
        "summary": (event.__doc__ or "").split("\n", 1)[0],
        "contentType": "application/json",
        "headers": _headers(topic),
        "payload": {"schemaFormat": "application/schema+json;version=draft-2020-12", "schema": payload},
        "bindings": {"kafka": {"key": {**_ORDER_NO, "description": "order_no"}, "bindingVersion": "0.5.0"}},
    }
