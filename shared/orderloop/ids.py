"""Order numbers: time-sortable, not sequential, and fit for every payment channel."""

import re
import secrets
from datetime import UTC, datetime

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # no I, L, O, U: read aloud on the telephone
_RANDOM = 12  # 60 bits: nobody guesses a neighbour, and a second may hold millions

# Alipay takes letters, digits and `_`; WeChat Pay 6-32 characters (protocols: out_trade_no).
ORDER_NO = re.compile(r"[0-9]{2}(?:0[1-9]|1[0-2])[0-9]{8}[0-9A-HJKMNP-TV-Z]{12}")

ORDER_NO_PATTERN = f"^{ORDER_NO.pattern}$"  # the same for JSON Schema, which searches


def new_order_no(now: datetime) -> str:
    """24 characters: UTC yymmddHHMMSS, then 60 random bits in Crockford's base 32.

    The leading time keeps an order's rows together and lets the inbox and the log be partitioned by month.
    """
    moment = now.astimezone(UTC).strftime("%y%m%d%H%M%S")
    return moment + "".join(secrets.choice(_CROCKFORD) for _ in range(_RANDOM))


def is_order_no(text: str) -> bool:
    """Whether `text` has the shape of an order number, its month included."""
    return ORDER_NO.fullmatch(text) is not None
