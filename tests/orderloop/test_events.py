import json
import re
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import fields, replace

from orderloop import topics
from orderloop.errors import MalformedEvent
from orderloop.events import BY_TOPIC, Event, OrderChanged, ParcelTracked, PaymentNotified, ShipmentRequested
from orderloop.ids import new_order_no
from tests.support.kafka import AT

ORDER_NO = new_order_no(AT)
TIME = "2026-03-01T20:00:00+08:00"
CANARY = "canary-13800138000"

BODIES: dict[str, dict[str, Any]] = {
    topics.PAYMENT_NOTIFIED: {
        "channel": "wechat",
        "mchid": "1900000001",
        "transaction_id": "42",
        "trade_state": "SUCCESS",
        "amount_fen": 9900,
        "payer_total_fen": 9800,
        "currency": "CNY",
        "paid_at": TIME,
        "source": "callback",
    },
    topics.REFUND_NOTIFIED: {
        "channel": "wechat",
        "transaction_id": "42",
        "refund_id": "5",
        "out_refund_no": "R1",
        "refund_status": "SUCCESS",
        "refund_fen": 1,
        "total_fen": 9900,
    },
    topics.WAYBILL_CREATED: {
        "shipment_id": "S1",
        "express_code": "zto",
        "waybill_no": "75",
        "warehouse": "hz",
        "created_at": TIME,
    },
    topics.PICKUP_DETECTED: {"express_code": "zto", "waybill_no": "75", "picked_up_at": TIME, "source": "push"},
    topics.PARCEL_TRACKED: {"express_code": "zto", "waybill_no": "75", "status": "delivered", "at": TIME},
    topics.SETTLEMENT_RESULT: {
        "instruction_id": "P1",
        "attempt": 1,
        "status": "SUCCESS",
        "bank_code": "ok",
        "amount_fen": 1,
    },
    topics.SHIPMENT_REQUESTED: {
        "shipment_id": "S1",
        "decision": {"warehouse": "hz", "express_code": "zto"},
        "items": [{"sku": "A", "name": "tea", "quantity": 1}],
        "receiver": {"name": "n", "phone": "p", "region": "r", "address": "a"},
    },
    topics.SETTLEMENT_REQUESTED: {
        "instruction_id": "P1",
        "channel": "wechat",
        "transaction_ids": ["42"],
        "amount_fen": 1,
    },
    topics.ANOMALY_RAISED: {"kind": "id_reused", "evidence": {"a": [1]}, "raised_at": TIME},
    topics.CLOSE_REQUESTED: {"amount_fen": 9900},
    topics.TRACKING_REQUESTED: {"express_code": "zto", "waybill_no": "75", "requested_at": TIME},
    topics.CLOSE_RESULT: {"result": "closed"},
    topics.REFUND_REQUESTED: {
        "channel": "wechat",
        "mchid": "1900000001",
        "transaction_id": "42",
        "out_refund_no": "R1",
        "refund_fen": 1,
        "total_fen": 9900,
        "reason": "returned",
    },
    topics.ORDER_CHANGED: {
        "version": 1,
        "from": None,
        "to": "pending",
        "cause": {"event_id": "e", "type": "t"},
        "at": TIME,
        "actor": "shop",
        "amount_fen": 1,
    },
}


def body(topic: str, **changed: object) -> bytes:
    return orjson.dumps({"order_no": ORDER_NO, **BODIES[topic], **changed})


def test_every_topic_has_its_event() -> None:
    assert set(BY_TOPIC) == set(topics.ALL) == set(BODIES)


@pytest.mark.parametrize("topic", topics.ALL)
def test_an_event_survives_the_wire(topic: str) -> None:
    event = BY_TOPIC[topic].decode(body(topic))

    assert BY_TOPIC[topic].decode(event.encode()) == event
    assert event.order_no == ORDER_NO


@pytest.mark.parametrize("topic", topics.ALL)
def test_every_required_field_is_missed(topic: str) -> None:
    for field in (field for field in fields(BY_TOPIC[topic]) if field.required):
        name = field.encode_name
        partial = {key: value for key, value in orjson.loads(body(topic)).items() if key != name}
        with pytest.raises(MalformedEvent, match=name):
            BY_TOPIC[topic].decode(orjson.dumps(partial))


@pytest.mark.parametrize("topic", topics.ALL)
@pytest.mark.parametrize("bad", [b"", b"{", b"[]", b"null", b"\xff", b"{}", b"[" * 100_000, b'{"order_no": "\\ud800"}'])
def test_what_is_no_body_is_malformed(topic: str, bad: bytes) -> None:
    with pytest.raises(MalformedEvent):
        BY_TOPIC[topic].decode(bad)


@pytest.mark.parametrize(
    "changed",
    [
        {"order_no": CANARY},
        {"order_no": "261301120000ABCDEFGHJKMN"},
        {"amount_fen": "9900"},
        {"amount_fen": 99.0},
        {"amount_fen": True},
        {"amount_fen": -1},
        {"amount_fen": 10**18},
        {"paid_at": "2026-03-01T20:00:00"},
        {"channel": CANARY + "\0"},
        {"source": CANARY},
    ],
)
def test_wrong_values_are_malformed_and_not_repeated(changed: dict[str, object]) -> None:
    with pytest.raises(MalformedEvent) as refused:
        PaymentNotified.decode(body(topics.PAYMENT_NOTIFIED, **changed))

    assert next(iter(changed)) in str(refused.value)
    assert CANARY not in str(refused.value)


def test_a_value_that_looks_like_our_own_words_is_not_repeated_either() -> None:
    with pytest.raises(MalformedEvent) as refused:
        ParcelTracked.decode(body(topics.PARCEL_TRACKED, status=f"x - at `{CANARY}"))

    assert "status" in str(refused.value)
    assert CANARY not in str(refused.value)


@pytest.mark.parametrize(
    ("part", "field"), [("decision", "warehouse"), ("receiver", "phone"), ("items[0]", "sku"), ("", "shipment_id")]
)
def test_a_nul_is_found_wherever_a_database_would_meet_it(part: str, field: str) -> None:
    whole = orjson.loads(body(topics.SHIPMENT_REQUESTED))
    holder = whole["items"][0] if "[" in part else whole[part] if part else whole
    holder[field] = "a\0b"

    with pytest.raises(MalformedEvent, match=re.escape(f"{part}.{field}" if part else field)):
        ShipmentRequested.decode(orjson.dumps(whole))


def test_what_only_looks_like_a_nul_is_none() -> None:
    assert ParcelTracked.decode(body(topics.PARCEL_TRACKED, text=r"\u0000")).text == r"\u0000"


def test_what_its_readers_would_refuse_is_not_encoded() -> None:
    sound = PaymentNotified.decode(body(topics.PAYMENT_NOTIFIED))
    for changed in ({"amount_fen": -1}, {"channel": "\0"}, {"mchid": "\ud800"}, {"paid_at": AT.replace(tzinfo=None)}):
        with pytest.raises(MalformedEvent):
            replace(sound, **changed).encode()
    with pytest.raises(ValueError, match="order_no"):
        replace(sound, order_no=CANARY)


def test_a_hundred_thousand_faults_are_told_in_a_sentence() -> None:
    with pytest.raises(MalformedEvent) as refused:
        ShipmentRequested.decode(body(topics.SHIPMENT_REQUESTED, items=[{"name": CANARY}] * 1000))

    assert len(str(refused.value)) < 500


def test_a_field_of_a_newer_producer_is_tolerated() -> None:
    assert ParcelTracked.decode(body(topics.PARCEL_TRACKED, weather="rain")).status == "delivered"


def test_money_that_is_fen_already_stays_as_it_is() -> None:
    assert PaymentNotified.decode(body(topics.PAYMENT_NOTIFIED)).amount_fen == 9900


def test_an_orders_change_says_from_on_the_wire() -> None:
    event = OrderChanged.decode(body(topics.ORDER_CHANGED, **{"from": "paid"}))

    assert orjson.loads(event.encode())["from"] == "paid"
    assert event.from_ == "paid"


def test_times_keep_their_instant() -> None:
    event = ParcelTracked.decode(body(topics.PARCEL_TRACKED))

    assert event.at == datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


@given(st.sampled_from(topics.ALL), st.binary(max_size=300))
def test_any_bytes_decode_or_are_malformed(topic: str, raw: bytes) -> None:
    with suppress(MalformedEvent):
        assert isinstance(BY_TOPIC[topic].decode(raw), Event)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.data(), st.sampled_from(topics.ALL))
def test_any_value_in_any_field_is_an_event_or_malformed(data: st.DataObject, topic: str) -> None:
    whole = orjson.loads(body(topic))
    field = data.draw(st.sampled_from(sorted(whole)))
    raw = json.dumps({**whole, field: data.draw(values)}).encode()
    try:
        event = BY_TOPIC[topic].decode(raw)
    except MalformedEvent:
        return
    assert BY_TOPIC[topic].decode(event.encode()).order_no == event.order_no
