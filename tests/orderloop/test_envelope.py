from contextlib import suppress
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orderloop.envelope import Envelope
from orderloop.errors import MalformedEvent
from orderloop.ids import new_order_no
from tests.support.kafka import AT

ORDER_NO = new_order_no(AT)
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
GOOD = {
    "ce_specversion": b"1.0",
    "ce_id": b"7",
    "ce_source": b"/wms/hangzhou",
    "ce_type": b"orderloop.waybill-created.v1",
    "ce_time": b"2026-03-01T20:00:00+08:00",
    "ce_subject": ORDER_NO.encode(),
}
AT_MS = int(AT.timestamp() * 1000)
CANARY = "canary-13800138000"

text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=60)


def read(
    changed: dict[str, bytes | None], *, key: bytes | None = ORDER_NO.encode(), timestamp_ms: int = AT_MS
) -> Envelope:
    headers = [(name, value) for name, value in {**GOOD, **changed}.items() if value != b"absent"]
    return Envelope.from_headers(headers, key=key, timestamp_ms=timestamp_ms)


@given(
    text,
    text,
    text,
    st.datetimes(
        min_value=datetime(1, 1, 3),  # noqa: DTZ001 # hypothesis wants these naive
        max_value=datetime(9999, 12, 29),  # noqa: DTZ001
        timezones=st.timezones(),
    ),
)
def test_what_is_written_is_read_again(event_id: str, source: str, topic: str, time: datetime) -> None:
    written = Envelope(event_id, source, topic, time.astimezone(UTC), ORDER_NO, TRACE)

    assert Envelope.from_headers(written.headers(), key=ORDER_NO.encode(), timestamp_ms=AT_MS) == written


def test_the_headers_are_binary_mode_and_nothing_else() -> None:
    written = Envelope("wechat:42:paid", "/payment-callback", "orderloop.payment-notified.v1", AT, ORDER_NO, TRACE)

    assert written.headers() == [
        ("ce_specversion", b"1.0"),
        ("ce_id", b"wechat:42:paid"),
        ("ce_source", b"/payment-callback"),
        ("ce_type", b"orderloop.payment-notified.v1"),
        ("ce_time", b"2026-03-01T12:00:00+00:00"),
        ("ce_subject", ORDER_NO.encode()),
        ("content-type", b"application/json"),
        ("traceparent", TRACE.encode()),
    ]


@pytest.mark.parametrize(
    "changed",
    [
        {"ce_id": b"absent"},
        {"ce_id": b""},
        {"ce_id": None},
        {"ce_source": b"absent"},
        {"ce_type": b"absent"},
        {"ce_specversion": b"absent"},
        {"ce_specversion": b"0.3"},
        {"ce_id": b"\xff"},
        {"ce_id": b"a\0b"},
        {"ce_id": b"x" * 250},
        {"ce_subject": new_order_no(AT).encode()},
        {"ce_time": b"yesterday"},
        {"ce_time": b"2026-03-01T12:00:00"},
    ],
)
def test_attributes_that_are_none_are_malformed(changed: dict[str, bytes | None]) -> None:
    with pytest.raises(MalformedEvent):
        read(changed)


@pytest.mark.parametrize("key", [None, b"", b"\xff", b"canary-13800138000", b"261301120000ABCDEFGHJKMN"])
def test_a_key_that_is_no_order_is_malformed_and_not_repeated(key: bytes | None) -> None:
    with pytest.raises(MalformedEvent) as refused:
        read({"ce_subject": b"absent"}, key=key)

    assert CANARY not in str(refused.value)


@pytest.mark.parametrize("name", sorted(GOOD))
def test_errors_name_headers_but_never_their_values(name: str) -> None:
    for value in (CANARY.encode() * 20, CANARY.encode() + b"\xff", CANARY.encode() + b"\0"):
        with suppress(MalformedEvent):
            read({name: value})
            continue
        with pytest.raises(MalformedEvent) as refused:
            read({name: value})
        assert CANARY not in str(refused.value)


def test_without_ce_time_the_records_own_time_stands_in() -> None:
    assert read({"ce_time": b"absent"}).time == AT


@pytest.mark.parametrize("timestamp_ms", [2**63 - 1, -(2**63)])
def test_a_record_whose_own_time_is_none_is_malformed_only_if_it_is_needed(timestamp_ms: int) -> None:
    assert read({}, timestamp_ms=timestamp_ms).id == "7"
    with pytest.raises(MalformedEvent):
        read({"ce_time": b"absent"}, timestamp_ms=timestamp_ms)


def test_an_id_from_outside_the_house_counts_within_its_source_only() -> None:
    assert read({}).event_id == "/wms/hangzhou#7"
    assert read({"ce_source": b"/order-core"}).event_id == "7"


def test_headers_of_others_need_not_even_be_text() -> None:
    assert read({"x-schema": b"\xff\xfe", "x-null": None}).id == "7"


@pytest.mark.parametrize(
    "broken",
    [
        "",
        "garbage",
        TRACE.upper(),
        TRACE[:-3],
        "ff" + TRACE[2:],
        "00-" + "0" * 32 + TRACE[35:],
        TRACE[:-1] + "\0",
        TRACE + "-x",
    ],
)
def test_a_broken_trace_costs_the_trace_not_the_event(broken: str) -> None:
    envelope = read({"traceparent": broken.encode(), "tracestate": b"a=b"})

    assert (envelope.id, envelope.traceparent, envelope.tracestate) == ("7", None, None)


def test_a_sound_trace_is_kept_with_its_state() -> None:
    envelope = read({"traceparent": TRACE.encode(), "tracestate": b"a=b"})

    assert (envelope.traceparent, envelope.tracestate) == (TRACE, "a=b")


@given(st.lists(st.tuples(st.sampled_from([*GOOD, "traceparent"]), st.none() | st.binary(max_size=40))), st.binary())
def test_any_headers_are_read_or_refused(headers: list[tuple[str, bytes | None]], key: bytes) -> None:
    with suppress(MalformedEvent):
        Envelope.from_headers([*GOOD.items(), *headers], key=key, timestamp_ms=AT_MS)
