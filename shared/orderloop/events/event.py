"""What every event of the house has in common."""

from collections.abc import Iterator
from datetime import datetime
from functools import cache
from typing import Annotated, Any, ClassVar, Self

import msgspec
from msgspec import Meta, Struct
from pydantic import AfterValidator

from orderloop.errors import MalformedEvent
from orderloop.ids import ORDER_NO_PATTERN, is_order_no


def _storable(text: str) -> str:
    # PostgreSQL's text holds every character but this one.
    if "\0" in text:
        raise ValueError("holds a NUL character")
    return text


_NUL = b"\\u0000"  # the only way in which JSON can say it
_VALUE = "Invalid enum value"  # the one message that repeats what it refuses

Text = Annotated[str, AfterValidator(_storable)]  # checked where a form asks for it; in an event by the event
# Only for the schema: every event checks it by itself, and says so without the value.
OrderNo = Annotated[str, Meta(extra_json_schema={"pattern": ORDER_NO_PATTERN})]
Time = Annotated[datetime, Meta(tz=True)]
Count = Annotated[int, Meta(ge=1)]


class Event(Struct, frozen=True, gc=False):
    """A body on the wire: JSON, snake_case, money in fen, times in RFC 3339 with an offset.

    Unknown fields are tolerated, so that a newer producer does not stop an older consumer. What is made here by hand is
    checked when it is encoded.
    """

    TOPIC: ClassVar[str]

    order_no: OrderNo

    def __post_init__(self) -> None:
        if not is_order_no(self.order_no):
            raise ValueError("order_no is not one of this house")

    @classmethod
    def decode(cls, body: bytes) -> Self:
        """Raises MalformedEvent, whose text names the field at fault but never its value."""
        try:
            event: Self = _decoder(cls).decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise MalformedEvent(f"{cls.__name__} does not decode: {_fault(error)}") from None
        if _NUL in body and (at := next(_nuls(event), None)):
            raise MalformedEvent(f"{cls.__name__} does not decode: {at} holds a NUL character")
        return event

    def encode(self) -> bytes:
        """Raises MalformedEvent for what its own readers would refuse.

        The order of the fields is part of the bytes, and the bytes tell a foreign producer's events apart.
        """
        try:
            body = msgspec.json.encode(self)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise MalformedEvent(f"{type(self).__name__} does not encode: {type(error).__name__}") from None
        self.decode(body)
        return body


@cache
def _decoder(event: type[Event]) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(event)


def _fault(error: Exception) -> str:
    if not isinstance(error, msgspec.DecodeError):
        return type(error).__name__
    said, at, path = str(error).rpartition(" - at `")
    if not at:
        said, path = path, said
    return (_VALUE if said.startswith(_VALUE) else said) + at + path


def _nuls(value: object, at: str = "") -> Iterator[str]:
    """Where a NUL stands in what a database would keep as text."""
    match value:
        case str() if "\0" in value:
            yield at
        case tuple():
            for n, one in enumerate(value):
                yield from _nuls(one, f"{at}[{n}]")
        case _:
            for name in getattr(value, "__struct_fields__", ()) or getattr(value, "__dataclass_fields__", ()):
                yield from _nuls(getattr(value, name), f"{at}.{name}" if at else name)


__all__ = ["Count", "Event", "Text", "Time"]
