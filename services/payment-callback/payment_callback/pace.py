"""When a channel is asked (again). Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(frozen=True, slots=True)
class Plan:
    """When to look whether a pending order was paid: at these ages, then again and again."""

    ages: Sequence[timedelta]  # ascending
    then_every: timedelta

    def after(self, pending_since: datetime, now: datetime) -> datetime:
        """The first look after `now`. What was missed meanwhile is not made up for."""
        age = now - pending_since
        for planned in self.ages:
            if planned > age:
                return pending_since + planned
        last = self.ages[-1] if self.ages else timedelta()
        return pending_since + last + ((age - last) // self.then_every + 1) * self.then_every


def plan(*, first_minutes: Sequence[float], then_minutes: float, time_factor: float) -> Plan:
    """Minutes of reality; a lab divides them."""
    return Plan(
        tuple(timedelta(minutes=minutes) / time_factor for minutes in sorted(first_minutes)),
        timedelta(minutes=then_minutes) / time_factor,
    )


_FIRST_WAIT = timedelta(seconds=2)
_LONGEST_WAIT = timedelta(minutes=10)


def wait(attempts: int, *, time_factor: float) -> timedelta:
    """How long until an errand that brought nothing is made again: 2 s, 4 s … 10 min, for as long as it takes."""
    return min(_FIRST_WAIT * 2 ** min(attempts - 1, 12), _LONGEST_WAIT) / time_factor


_AFTER_FAILURE = timedelta(minutes=1)


def download_wait(failures: int, *, every: timedelta, chance: float) -> timedelta:
    """How long until the certificates are downloaded again; after failures 1, 2, 4 … minutes.

    `chance` in [0, 1) spreads the replicas over the last quarter, so that `every` is never exceeded.
    """
    wish = min(_AFTER_FAILURE * 2 ** min(failures - 1, 12), every) if failures else every
    return wish * (0.75 + chance / 4)


@dataclass(slots=True)
class Allowance:
    """How often the channels may be asked without anybody having asked us: so many times in a second, per process."""

    per_second: int
    _left: float = 0
    _at: datetime | None = None

    def take(self, most: int, now: datetime) -> int:
        """At most `most`; what is not used up is saved for one second."""
        passed = 1.0 if self._at is None else max(0.0, (now - self._at).total_seconds())
        self._left = min(float(self.per_second), self._left + passed * self.per_second)
        self._at = now
        taken = min(most, int(self._left))
        self._left -= taken
        return taken
