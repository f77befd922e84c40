"""How a row of the callback log is named in a URL: where a page ended, or the row itself."""

from datetime import datetime

from orderloop.problem import Problem

from .store import Page

_LARGEST_ID = 2**63 - 1


def mark(received_at: datetime, number: int) -> str:
    return f"{received_at.isoformat()}~{number}"


def page(text: str) -> Page:
    """Raises Problem 422."""
    moment, _, number = text.partition("~")
    try:
        # a "+" that was not escaped in the URL arrives as a space
        received_at = datetime.fromisoformat(moment.replace(" ", "+"))
        if not (received_at.tzinfo and 1970 <= received_at.year < 2200 and number.isascii() and number.isdigit()):
            raise ValueError(text)
        return Page(received_at, min(int(number[:20]), _LARGEST_ID))
    except ValueError:
        raise Problem(422, "invalid-request", "That names no row of the callback log.") from None
