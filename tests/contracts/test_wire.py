"""A whole record: key, headers and body. What the contract says of it and what a reader takes are the same."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from orderloop.asyncapi import PUBLISHES
from orderloop.envelope import Envelope
from orderloop.errors import MalformedEvent
from orderloop.events import BY_TOPIC
from orderloop.topics import ALL, WAYBILL_CREATED
from tests.contracts.test_events import golden
from tests.support.contract import Record, faults

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def _record(topic: str, source: str) -> Record:
    """As the relay makes it."""
    event = BY_TOPIC[topic].decode(json.dumps(golden(topic)).encode())
    envelope = Envelope("some-fact:1", source, topic, datetime.now(UTC), event.order_no, TRACE, "vendor=1")
    return Record(topic, event.order_no.encode(), envelope.headers(), event.encode())


@pytest.mark.parametrize("topic", ALL)
def test_what_every_service_publishes_is_what_its_contract_says(topic: str) -> None:
    services = [service for service, topics in PUBLISHES.items() if topic in topics]
    assert services
    for service in services:
        assert faults(_record(topic, f"/{service}")) == []


# Of a key, a header (None: without it) or a body.
REFUSED: dict[str, dict[str, Any]] = {
    "a key that is no order number": {"key": b"SO-2026-1"},
    "another order number in the body": {"order_no": "SO-2026-1"},
    "an order number of the thirteenth month": {"order_no": "261322061500K7Q2M9XR4TB0"},
    "a subject that is no order number": {"ce_subject": b"SO-2026-1"},
    "no id": {"ce_id": None},
    "an empty id": {"ce_id": b""},
    "an id that is too long": {"ce_id": b"1" * 257},
    "no source": {"ce_source": None},
    "an empty source": {"ce_source": b""},
    "a source that is too long": {"ce_source": b"/" * 257},
    "no type": {"ce_type": None},
    "another topic's type": {"ce_type": b"orderloop.waybill-created.v2"},
    "no version": {"ce_specversion": None},
    "another version": {"ce_specversion": b"0.3"},
    "a time that is none": {"ce_time": b"yesterday"},
    "a time without an offset": {"ce_time": b"2026-11-22T14:15:01"},
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_a_reader_refuses_the_contract_does_not_allow(why: str) -> None:
    good = _record(WAYBILL_CREATED, "/my-wms")
    assert _is_read(good)
    assert faults(good) == []
    [(name, value)] = REFUSED[why].items()
    headers = {**dict(good.headers)} | ({name: value} if name.startswith("ce_") and value is not None else {})
    if value is None:
        del headers[name]
    body = {**json.loads(good.body)} | ({name: value} if name == "order_no" else {})
    key = value if name == "key" else good.key
    wrong = Record(WAYBILL_CREATED, key, [*headers.items()], json.dumps(body).encode())

    assert not _is_read(wrong)
    assert [fault.partition(":")[0] for fault in faults(wrong)] == [
        {"key": "key", "order_no": "body"}.get(name, "headers")
    ]


def _is_read(record: Record) -> bool:
    try:
        envelope = Envelope.from_headers(record.headers, key=record.key, timestamp_ms=0)
        BY_TOPIC[record.topic].decode(record.body)
    except MalformedEvent:
        return False
    return envelope.type == record.topic
