"""Money is an integer number of fen (1/100 yuan); yuan exist only as text at the edges."""

from decimal import Decimal, InvalidOperation
from typing import Annotated

from pydantic import Field

# Strict: 1.0 or "1" from a careless producer is an error, not an amount.
Fen = Annotated[int, Field(strict=True, ge=0, le=10**15)]


def yuan(amount_fen: int) -> str:
    """1234 -> "12.34"."""
    sign = "-" if amount_fen < 0 else ""
    whole, cents = divmod(abs(amount_fen), 100)
    return f"{sign}{whole}.{cents:02d}"


def fen(amount_yuan: str) -> int:
    """ "12.34" -> 1234. Raises ValueError for anything that is not a whole number of fen."""
    try:
        exact = Decimal(amount_yuan) * 100
    except InvalidOperation:
        raise ValueError(f"{amount_yuan!r} is no amount in yuan") from None
    if not exact.is_finite() or exact != exact.to_integral_value():
        raise ValueError(f"{amount_yuan!r} is not a whole number of fen")
    return int(exact)
