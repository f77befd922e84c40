"""What came out of the outbox, held against what went in."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from aiokafka import ConsumerRecord

from .outbox_writers import NEVER

_NEVER = NEVER.encode()


@dataclass(slots=True)
class Judge:
    """Follows a topic record by record, each partition's in their order."""

    published: dict[str, int] = field(default_factory=dict[str, int])  # order -> its versions 1..n, without a gap
    ahead: dict[str, set[int]] = field(default_factory=dict[str, set[int]])  # order -> versions beyond a gap
    partitions: dict[str, int] = field(default_factory=dict[str, int])
    repeats: int = 0
    inverted: list[str] = field(default_factory=list[str])
    odd: list[str] = field(default_factory=list[str])

    def follow(self, record: ConsumerRecord[bytes | None, bytes | None]) -> None:
        order_no, _, number = (dict(record.headers)["ce_id"] or b"").decode().partition(":")
        version, last = int(number), self.published.get(order_no, 0)
        if self.partitions.setdefault(order_no, record.partition) != record.partition:
            self.odd.append(f"order {order_no} lies in more than one partition")
        if _NEVER in (record.value or b""):
            self.odd.append(f"{order_no}:{version} was published though its transaction was rolled back")
        ahead = self.ahead.get(order_no, set[int]())
        if version <= last or version in ahead:
            self.repeats += 1
        elif version > last + 1:
            self.ahead.setdefault(order_no, set()).add(version)
        else:
            if ahead:
                self.inverted.append(f"inverted: {order_no}:{version} was published after {order_no}:{min(ahead)}")
            while version + 1 in ahead:
                version += 1
                ahead.remove(version)
            self.published[order_no] = version

    def lost(self, finals: Mapping[str, int]) -> Iterator[str]:
        for order_no, last in finals.items():
            seen = range(1, self.published.get(order_no, 0) + 1)
            missing = set(range(1, last + 1)).difference(seen, self.ahead.get(order_no, ()))
            yield from (f"lost: {order_no}:{version}" for version in sorted(missing))

    def violations(self, finals: Mapping[str, int], *, most_repeats: int) -> Iterator[str]:
        """`finals`: the last version of every order. `most_repeats`: what the kills explain."""
        yield from self.lost(finals)
        yield from self.inverted
        yield from self.odd
        told = Counter(self.published)
        for order_no in told - Counter(finals):
            yield f"{order_no}:{told[order_no]} was published and never staged"
        if self.repeats > most_repeats:
            yield f"{self.repeats} records were published again, and the kills explain {most_repeats}"

    @property
    def digest(self) -> str:
        return digest(self.published)


def digest(finals: Mapping[str, int]) -> str:
    return hashlib.sha256(repr(sorted(finals.items())).encode()).hexdigest()[:16]
