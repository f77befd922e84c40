"""What every event of the house has in common."""

from typing import Annotated, ClassVar, Self

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, ValidationError

from orderloop.errors import MalformedEvent
from orderloop.ids import is_order_no


def _order_no(text: str) -> str:
    if not is_order_no(text):
        raise ValueError("not an order_no of this house")
    return text


def _storable(text: str) -> str:
    # PostgreSQL's text holds every character but this one.
    if "\0" in text:
        raise ValueError("holds a NUL character")
    return text


_MOST_FAULTS = 5  # named in an error; a hundred thousand items may all be wrong in the same way

OrderNo = Annotated[str, AfterValidator(_order_no)]
Text = Annotated[str, AfterValidator(_storable)]


class Event(BaseModel):
    """A body on the wire: JSON, snake_case, money in fen, times in RFC 3339 with an offset.

    Unknown fields are tolerated, so that a newer producer does not stop an older consumer.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    TOPIC: ClassVar[str]

    order_no: OrderNo

    @classmethod
    def decode(cls, body: bytes) -> Self:
        """Raises MalformedEvent, whose text names the fields at fault but never their values."""
        try:
            return cls.model_validate_json(body)
        except ValidationError as error:
            faults = ", ".join(
                f"{'.'.join(map(str, e['loc'])) or 'body'}: {e['type']}" for e in error.errors()[:_MOST_FAULTS]
            )
            raise MalformedEvent(f"{cls.__name__} does not decode: {faults}") from None

    def encode(self) -> bytes:
        return self.model_dump_json(by_alias=True).encode()


Time = AwareDatetime
__all__ = ["Event", "OrderNo", "Text", "Time"]
