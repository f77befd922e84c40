"""A point in time as a person types it. Pure."""

from datetime import UTC, datetime


def moment(text: str) -> datetime:
    """RFC 3339 with an offset, or seconds since 1970. Raises ValueError."""
    try:
        return datetime.fromtimestamp(float(text), UTC)
    except (ValueError, OverflowError, OSError):
        pass
    read = datetime.fromisoformat(text)
    if read.tzinfo is None:
        raise ValueError(f"{text} names no offset: 2026-11-22T17:30:15+08:00")
    return read
