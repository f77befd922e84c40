"""How much each invariant had to look at: one that looked at nothing proves nothing."""

from collections.abc import Callable, Mapping
from typing import Any

from . import registry
from .evidence import Evidence

_SILENT: Mapping[str, Any] = {"attempts": ()}
# By the column of the same name in the query `scope`, unless it stands here.
_ELSEWHERE: Mapping[str, Callable[[Evidence], int]] = {
    "I6": lambda evidence: sum(len(evidence.after.get(name, _SILENT)["attempts"]) for name in ("wechat", "alipay")),
    "I7": lambda evidence: len(evidence.topics.inbound) + len(evidence.topics.dead),
    "I9": lambda evidence: len(evidence.topics.changes),
    "I11": lambda evidence: len(evidence.after["bank"]["paid"]),
    "I13": lambda evidence: sum(map(len, evidence.after["wms"].values())),
}


async def scopes(evidence: Evidence) -> Mapping[str, int]:
    """By invariant; of those whose sources are there."""
    counts: dict[str, int] = {}
    async for row in evidence.rows("order_core", "scope"):
        counts |= {name.upper(): count for name, count in row.items()}
    for name, count in _ELSEWHERE.items():
        if registry.ALL[name].needs <= evidence.sources:
            counts[name] = count(evidence)
    return counts
