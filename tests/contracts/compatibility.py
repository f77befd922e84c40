"""What may change in an event from one release to the next: optional fields may be added, and nothing else.

Producers and readers of both releases run at the same time, ours and other people's. So the new schema must take all
that the old one took, and the old one all that is now sent: unknown fields are tolerated, all else has to be equal.

`python -m tests.contracts.compatibility NAME` writes the contracts of a release.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from orderloop.asyncapi import SERVICES, document

RELEASED = Path(__file__).with_name("released")

Schema = Mapping[str, Any]
Contract = Mapping[str, Schema]  # headers, body

# Words about a schema that change nothing of what it takes.
_ANNOTATIONS = frozenset({"title", "description", "default", "examples", "deprecated"})


def contracts() -> dict[str, Contract]:
    """Every topic's headers and body as they are now, references followed."""
    found: dict[str, Contract] = {}
    for service in SERVICES:
        whole = document(service)
        for topic, channel in whole["channels"].items():
            message = whole["components"]["messages"][next(iter(channel["messages"]))]
            parts = {"headers": message["headers"], "body": message["payload"]["schema"]}
            found[topic] = {name: _resolved(part, whole) for name, part in parts.items()}
    return found


def released(release: str) -> dict[str, Contract]:
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in (RELEASED / release).glob("*.json")}


def breakages(before: Mapping[str, Contract], now: Mapping[str, Contract]) -> list[str]:
    """In words, what would stop somebody who knows the release `before`."""
    gone = [f"{topic}: the topic is gone" for topic in sorted(before.keys() - now.keys())]
    kept = [(topic, part) for topic in sorted(before.keys() & now.keys()) for part in before[topic]]
    return gone + [fault for topic, part in kept for fault in _differ(before[topic][part], now[topic][part], topic)]


def _differ(before: Any, now: Any, at: str) -> Iterator[str]:
    if not isinstance(before, dict) or not isinstance(now, dict):
        if before != now:
            yield f"{at}: {_short(before)} has become {_short(now)}"
        return
    before, now = _terse(before), _terse(now)
    for word in sorted((before.keys() | now.keys()) - {"properties", "required"}):
        if word in before and word in now:
            yield from _differ(before[word], now[word], f"{at} {word}")
        else:
            yield f"{at}: {word} has been {'taken away' if word in before else 'added'}"
    fields, fields_now = before.get("properties", {}), now.get("properties", {})
    for name in fields:
        if name in fields_now:
            yield from _differ(fields[name], fields_now[name], f"{at} {name}")
        else:
            yield f"{at} {name}: the field is gone"
    needed, needed_now = set(before.get("required", ())), set(now.get("required", ()))
    yield from (f"{at} {name}: it may be left out now" for name in sorted((needed - needed_now) & fields_now.keys()))
    yield from (f"{at} {name}: it is required now" for name in sorted(needed_now - needed))


def _terse(schema: dict[str, Any]) -> dict[str, Any]:
    """Without what goes without saying: the type of listed values, and that further fields may be there."""
    unsaid = {"type"} if "enum" in schema else set[str]()
    if schema.get("additionalProperties") is True:
        unsaid.add("additionalProperties")
    return {word: value for word, value in schema.items() if word not in unsaid}


def _resolved(node: Any, whole: Schema) -> Any:
    """Without references, annotations and an order of what has none."""
    match node:
        case {"$ref": str(reference), **beside}:
            target: Any = whole
            for step in reference.removeprefix("#/").split("/"):
                target = target[step]
            return _resolved({**target, **beside}, whole)
        case {"properties": properties, **rest}:
            fields = {name: _resolved(field, whole) for name, field in properties.items()}
            return {**_resolved(rest, whole), "properties": fields}
        case dict():
            return {k: _resolved(v, whole) for k, v in node.items() if k not in _ANNOTATIONS | {"$defs"}}
        case list():
            parts = [_resolved(part, whole) for part in node]
            return sorted(parts, key=lambda part: json.dumps(part, sort_keys=True))
        case _:
            return node


def _short(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)[:200]


def write(release: str) -> None:
    folder = RELEASED / release
    folder.mkdir(parents=True)  # a release is written once
    for topic, contract in contracts().items():
        (folder / f"{topic}.json").write_text(json.dumps(contract, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write(sys.argv[1])
