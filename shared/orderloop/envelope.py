"""CloudEvents 1.0 on Kafka, binary mode: attributes are headers, the body is the value, the key is the order.

Source: CloudEvents Kafka protocol binding 1.0.2, section 3.2.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from msgspec import Struct

from .errors import MalformedEvent
from .ids import is_order_no
from .topics import HOUSE_SOURCES

Headers = Sequence[tuple[str, bytes | None]]

_REQUIRED = ("ce_id", "ce_source", "ce_type", "ce_specversion")
LONGEST_ID = 256  # of source and id together: they are an index key
# W3C Trace Context 1, section 3.2
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


class Envelope(Struct, frozen=True, gc=False):
    """Who says what about which order, and since when it is so."""

    id: str
    source: str
    type: str  # the topic's name without a prefix
    time: datetime
    subject: str  # order_no, which is also the record's key
    traceparent: str | None = None
    tracestate: str | None = None

    @property
    def event_id(self) -> str:
        """What makes the event the same event. A foreign producer's id counts within its own source only."""
        return self.id if self.source in HOUSE_SOURCES else f"{self.source}#{self.id}"

    def headers(self) -> list[tuple[str, bytes]]:
        pairs = [
            ("ce_specversion", "1.0"),
            ("ce_id", self.id),
            ("ce_source", self.source),
            ("ce_type", self.type),
            ("ce_time", self.time.isoformat()),
            ("ce_subject", self.subject),
            ("content-type", "application/json"),
        ]
        if self.traceparent:
            pairs.append(("traceparent", self.traceparent))
        if self.tracestate:
            pairs.append(("tracestate", self.tracestate))
        return [(name, value.encode()) for name, value in pairs]

    @classmethod
    def from_headers(cls, headers: Headers, *, key: bytes | None, timestamp_ms: int) -> "Envelope":
        """Read a record's headers and key. `ce_time` is optional on the wire: the record's own time stands in.

        Raises MalformedEvent.
        """
        given = dict(headers)
        try:
            # Foreign headers are nobody's business here, and need not even be text.
            event_id = (given.get("ce_id") or b"").decode()
            source = (given.get("ce_source") or b"").decode()
            topic = (given.get("ce_type") or b"").decode()
            order_no = (key or b"").decode()
            sent_at = (given["ce_time"] or b"").decode() if "ce_time" in given else None
        except UnicodeDecodeError:
            raise MalformedEvent("an attribute or the key is not UTF-8") from None
        version = given.get("ce_specversion")
        if not (event_id and source and topic and version):
            missing = [name for name in _REQUIRED if not given.get(name)]
            raise MalformedEvent(f"header missing: {', '.join(missing)}")
        if version != b"1.0":
            raise MalformedEvent("ce_specversion is not 1.0")
        if not is_order_no(order_no) or given.get("ce_subject", key) != key:
            raise MalformedEvent("the record's key is not an order_no, or differs from ce_subject")
        if len(event_id) + len(source) > LONGEST_ID or "\0" in event_id or "\0" in source:
            raise MalformedEvent(f"ce_source and ce_id are longer than {LONGEST_ID} characters or hold a NUL")
        try:
            if sent_at is not None:
                time = datetime.fromisoformat(sent_at)
            else:
                time = datetime.fromtimestamp(timestamp_ms / 1000, UTC)
        except (ValueError, OverflowError):
            raise MalformedEvent("ce_time is not RFC 3339; or it is missing, and the record's time is none") from None
        if time.tzinfo is None:
            raise MalformedEvent("ce_time has no offset")
        return cls(event_id, source, topic, time, order_no, *_trace(given))


def _trace(given: Mapping[str, bytes | None]) -> tuple[str | None, str | None]:
    """traceparent and tracestate. What does not look like one is ignored, as the standard asks: a foreign producer's
    broken tracing must not cost its events."""
    if "traceparent" not in given:
        return None, None
    traceparent = (given["traceparent"] or b"").decode(errors="replace")
    if _TRACEPARENT.fullmatch(traceparent) is None:
        return None, None
    return traceparent, (given.get("tracestate") or b"").decode(errors="replace") or None
