"""Money is an integer number of fen (1/100 yuan); yuan exist only as text at the edges."""

import re
from typing import Annotated

from msgspec import Meta
from pydantic import Field

# Strict: 1.0 or "1" from a careless producer is an error, not an amount. For forms and for events.
Fen = Annotated[int, Field(strict=True, ge=0, le=10**15), Meta(ge=0, le=10**15)]


# Digits with at most two decimals that count: no exponents, blanks, underscores or full-width digits.
_YUAN = re.compile(r"([+-]?)([0-9]{1,13})(?:\.([0-9]{1,2})0*)?")


def yuan(amount_fen: int) -> str:
    """1234 -> "12.34"."""
    sign = "-" if amount_fen < 0 else ""
    whole, cents = divmod(abs(amount_fen), 100)
    return f"{sign}{whole}.{cents:02d}"


def fen(amount_yuan: str) -> int:
    """ "12.34" -> 1234. Raises ValueError for anything that is not a whole number of fen."""
    if (shape := _YUAN.fullmatch(amount_yuan)) is None:
        raise ValueError(f"{amount_yuan!r} is not a whole number of fen, written in yuan")
    sign, whole, cents = shape.groups()
    return int(f"{sign}{whole}{(cents or '').ljust(2, '0')}")
