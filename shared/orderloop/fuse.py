"""The fuse of a consumer: a bad deploy must not drain a topic into the dead letters."""

from .errors import Permanent

_IN_A_ROW = 20
_SHARE = 0.01
_SAMPLE = 2000  # the share means nothing on fewer events


class Fuse:
    """Blows after 20 parked records in a row, or when 1 % of at least 2,000 were parked."""

    def __init__(self) -> None:
        self.blown = False
        self._in_a_row = 0
        self._parked = 0
        self._seen = 0

    def passed(self, events: int) -> None:
        self._seen += events
        if events:
            self._in_a_row = 0
        if self._seen >= 2 * _SAMPLE:  # forget the distant past
            self._seen //= 2
            self._parked //= 2

    def parked(self) -> None:
        self._seen += 1
        self._in_a_row += 1
        self._parked += 1
        too_many = self._seen >= _SAMPLE and self._parked > self._seen * _SHARE
        self.blown = self.blown or self._in_a_row >= _IN_A_ROW or too_many


class FuseBlown(Permanent):
    """Too much was parked. A person has to look before the consumer goes on."""
