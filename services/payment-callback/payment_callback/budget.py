"""How much of what is refused may be written down. Pure.

A forged request costs its sender nothing and us up to 64 KB of disk: without a limit the log is the attack. And without
a limit per address the first stranger would spend what is there for all.
"""

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from ipaddress import IPv6Address, ip_address

# A flood from more addresses than this shares what is left.
_MOST_ADDRESSES = 10_000


@dataclass(slots=True)
class Budget:
    """Rows and bytes per window, in each process."""

    rows: int
    bytes: int
    rows_per_address: int
    window: timedelta = timedelta(hours=1)
    _ends: datetime | None = None
    _rows: int = 0
    _bytes: int = 0
    _by_source: Counter[str] = field(default_factory=Counter[str])

    def spend(self, size: int, address: str | None, now: datetime) -> bool:
        """Whether a row of `size` bytes from `address` may still be written; if so it is counted."""
        if self._ends is None or now >= self._ends:
            self._ends, self._rows, self._bytes = now + self.window, 0, 0
            self._by_source.clear()
        source = _source(address)
        if source not in self._by_source and len(self._by_source) >= _MOST_ADDRESSES:
            source = "the others"
        if (
            self._rows + 1 > self.rows
            or self._bytes + size > self.bytes
            or self._by_source[source] + 1 > self.rows_per_address
        ):
            return False
        self._rows += 1
        self._bytes += size
        self._by_source[source] += 1
        return True


def _source(address: str | None) -> str:
    """Who owns one IPv6 address owns 2^64 of them."""
    try:
        parsed = ip_address(address or "")
    except ValueError:
        return "unknown"
    if isinstance(parsed, IPv6Address):
        return str(parsed.ipv4_mapped or f"{int(parsed) >> 64:x}/64")
    return str(parsed)
