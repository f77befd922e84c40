"""What travels on Kafka: models, golden samples and schemas say the same."""

import hashlib
import json
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from orderloop.asyncapi import schema
from orderloop.errors import MalformedEvent
from orderloop.events import BY_TOPIC
from orderloop.topics import (
    ANOMALY_RAISED,
    ORDER_CHANGED,
    PARCEL_TRACKED,
    PAYMENT_NOTIFIED,
    PICKUP_DETECTED,
    WAYBILL_CREATED,
)

GOLDEN = Path(__file__).with_name("golden")


def golden(topic: str) -> dict[str, Any]:
    """A body as some version of this house has sent it. Never edited: a producer of that time may still be running."""
    return json.loads((GOLDEN / f"{topic}.json").read_text(encoding="utf-8"))


def _without(body: dict[str, Any], name: str) -> bytes:
    return json.dumps({key: value for key, value in body.items() if key != name}).encode()


def test_every_event_has_a_golden_sample_and_every_sample_an_event() -> None:
    assert {path.stem for path in GOLDEN.glob("*.json")} == set(BY_TOPIC)


@pytest.mark.parametrize("topic", BY_TOPIC)
def test_a_golden_sample_decodes_and_comes_out_as_it_went_in(topic: str) -> None:
    """What has been added since is optional, and comes out beside it."""
    body = golden(topic)
    assert json.loads(BY_TOPIC[topic].decode(json.dumps(body).encode()).encode()).items() >= body.items()


# The first bytes of what order-core remembers of a foreign producer's event, to tell another one under the same id from
# a repeat: a repeat of last year's must still be one.
FINGERPRINTS = {
    WAYBILL_CREATED: "c45dd1c3bbf1f116",
    PICKUP_DETECTED: "90bc9d2f94a5fd1e",
    PARCEL_TRACKED: "eb663e7aab856932",
    PAYMENT_NOTIFIED: "bd08ab6abef31d93",
    ANOMALY_RAISED: "39ffbd97b7621590",
    ORDER_CHANGED: "73855a2eb9deb5ee",
}


@pytest.mark.parametrize("topic", FINGERPRINTS)
def test_the_bytes_of_a_golden_sample_are_what_they_have_always_been(topic: str) -> None:
    encoded = BY_TOPIC[topic].decode(json.dumps(golden(topic)).encode()).encode()
    assert hashlib.sha256(encoded).hexdigest()[:16] == FINGERPRINTS[topic]


@pytest.mark.parametrize("topic", BY_TOPIC)
def test_an_event_survives_the_wire(topic: str) -> None:
    event = BY_TOPIC[topic].decode(json.dumps(golden(topic)).encode())
    assert BY_TOPIC[topic].decode(event.encode()) == event


@pytest.mark.parametrize("topic", BY_TOPIC)
def test_a_newer_producer_s_fields_are_tolerated_at_every_depth(topic: str) -> None:
    body = golden(topic)
    expected = BY_TOPIC[topic].decode(json.dumps(body).encode())
    for part in [body, *(value for value in body.values() if isinstance(value, dict))]:
        if part is not body.get("evidence"):  # evidence is whatever it is
            part["planted"] = {"by": "a newer producer"}
    assert BY_TOPIC[topic].decode(json.dumps(body).encode()) == expected


@pytest.mark.parametrize("topic", BY_TOPIC)
def test_schema_and_model_agree_on_what_is_an_event(topic: str) -> None:
    body, validator = golden(topic), jsonschema_rs.validator_for(schema(BY_TOPIC[topic]), validate_formats=True)
    assert validator.is_valid(body)
    for name in body:
        shortened = _without(body, name)
        try:
            BY_TOPIC[topic].decode(shortened)
            accepted = True
        except MalformedEvent:
            accepted = False
        assert validator.is_valid(json.loads(shortened)) == accepted, name


@pytest.mark.parametrize("topic", BY_TOPIC)
def test_money_is_never_a_fraction_or_a_text(topic: str) -> None:
    body = golden(topic)
    for name in (name for name in body if name.endswith("_fen")):
        for wrong in (str(body[name]), body[name] + 0.5, float(body[name]), True):
            with pytest.raises(MalformedEvent):
                BY_TOPIC[topic].decode(json.dumps({**body, name: wrong}).encode())


@pytest.mark.parametrize("topic", BY_TOPIC)
def test_a_time_without_an_offset_is_no_time(topic: str) -> None:
    body = golden(topic)
    for name, value in body.items():
        if isinstance(value, str) and value.endswith("+08:00"):
            with pytest.raises(MalformedEvent):
                BY_TOPIC[topic].decode(json.dumps({**body, name: value.removesuffix("+08:00")}).encode())


@pytest.mark.parametrize("topic", BY_TOPIC)
def test_what_does_not_decode_is_refused_without_repeating_its_values(topic: str) -> None:
    body = {**golden(topic), "order_no": "canary-13800000000"}
    with pytest.raises(MalformedEvent) as refused:
        BY_TOPIC[topic].decode(json.dumps(body).encode())
    assert "canary" not in str(refused.value)
