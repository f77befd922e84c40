"""A circuit breaker: who fails again and again is left alone for a while, then tried once."""

from collections.abc import Callable


class Breaker:
    """Opens after `failures` in a row; lets one call through every `rest` seconds until one succeeds.

    `clock` gives seconds that never go backwards.
    """

    def __init__(self, clock: Callable[[], float], *, failures: int = 5, rest: float = 60) -> None:
        self._clock = clock
        self._most = failures
        self._rest = rest
        self._in_a_row = 0
        self._try_at = 0.0

    @property
    def open(self) -> bool:
        return self._in_a_row >= self._most

    def allows(self) -> bool:
        """Whether to call now. While open, asking takes the one try that is due."""
        if not self.open:
            return True
        now = self._clock()
        if now < self._try_at:
            return False
        self._try_at = now + self._rest
        return True

    def succeeded(self) -> None:
        self._in_a_row = 0

    def failed(self) -> None:
        self._in_a_row += 1
        if self._in_a_row == self._most:
            self._try_at = self._clock() + self._rest
