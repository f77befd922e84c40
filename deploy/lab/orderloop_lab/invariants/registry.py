"""What an invariant is: an id, a title, what it has to read, and a function that names what violates it."""

from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import dataclass

from .evidence import Evidence

Finder = Callable[[Evidence], AsyncIterator[str]]


@dataclass(frozen=True, slots=True)
class Invariant:
    id: str
    title: str
    needs: frozenset[str]  # databases and simulators by name, and "kafka"; without them it is not checked
    uses: frozenset[str]  # without these it is checked less far
    violations: Finder  # one sentence each, naming the order and the figures


ALL: dict[str, Invariant] = {}


def invariant(name: str, title: str, *needs: str, uses: Collection[str] = ()) -> Callable[[Finder], Finder]:
    def register(find: Finder) -> Finder:
        ALL[name] = Invariant(name, title, frozenset(needs), frozenset(uses), find)
        return find

    return register


def in_order() -> list[Invariant]:
    return sorted(ALL.values(), key=lambda one: int(one.id[1:]))
