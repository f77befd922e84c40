"""How much of what is refused may be written down. Pure.

A forged request costs its sender nothing and us up to 64 KB of disk: without a limit the log is the attack.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(slots=True)
class Budget:
    """Rows and bytes per window, in each process."""

    rows: int
    bytes: int
    window: timedelta = timedelta(hours=1)
    _ends: datetime | None = None
    _rows: int = 0
    _bytes: int = 0

    def spend(self, size: int, now: datetime) -> bool:
        """Whether a row of `size` bytes may still be written; if so it is counted."""
        if self._ends is None or now >= self._ends:
            self._ends, self._rows, self._bytes = now + self.window, 0, 0
        if self._rows + 1 > self.rows or self._bytes + size > self.bytes:
            return False
        self._rows += 1
        self._bytes += size
        return True
