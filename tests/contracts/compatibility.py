"""What may change in an event from one release to the next: optional fields may be added, and nothing else.

Producers and readers of both releases run at the same time, ours and other people's. So the new schema must take all
that the old one took, and the old one all that is now sent: unknown fields are tolerated, all else has to be equal.

What is younger than the newest release is promised to nobody, and may still change; it stands in `UNRELEASED`, so that
nobody takes it for kept. `python -m tests.contracts.compatibility NUMBER` writes a release, which keeps all there is.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from orderloop.asyncapi import SERVICES, document
from orderloop.envelope import LONGEST_ID
from orderloop.ids import ORDER_NO_PATTERN

RELEASED = Path(__file__).with_name("released")

Schema = Mapping[str, Any]
Contract = Mapping[str, Schema]  # headers, body

# Words about a schema that change nothing of what it takes.
_ANNOTATIONS = frozenset({"title", "description", "default", "examples", "deprecated"})

# Topics, and fields as "topic part field", that no release knows yet.
UNRELEASED: frozenset[str] = frozenset({"orderloop.tracking-requested.v1"})


def _said_since(release: str, topic: str) -> Mapping[str, Mapping[str, Schema]]:
    """What a release's schemas left unsaid although every reader of that release refused all else: saying it now breaks
    nobody. `test_wire.py` shows each refusal."""
    if release != "1":
        return {}
    attribute, order_no = {"minLength": 1, "maxLength": LONGEST_ID}, {"pattern": ORDER_NO_PATTERN}
    headers = {"ce_id": attribute, "ce_source": attribute, "ce_type": {"const": topic}, "ce_subject": order_no}
    return {"headers": headers, "body": {"order_no": order_no}}


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


def releases() -> list[str]:
    """Oldest first."""
    return sorted((path.name for path in RELEASED.iterdir()), key=int)


def released(release: str) -> dict[str, Contract]:
    found = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in (RELEASED / release).glob("*.json")}
    for topic, contract in found.items():
        for part, fields in _said_since(release, topic).items():
            for name, words in fields.items():
                contract[part]["properties"][name] |= words
    return found


def younger(before: Mapping[str, Contract], now: Mapping[str, Contract]) -> set[str]:
    """The topics and fields of `now` that `before` does not know."""
    known = {field for topic, contract in before.items() for field in _fields(contract, topic)}
    topics = now.keys() - before.keys()
    return topics | {one for topic in before.keys() & now.keys() for one in _fields(now[topic], topic)} - known


def _fields(node: Schema, at: str) -> Iterator[str]:
    for word, value in node.items():
        match word, value:
            case "properties", dict():
                for name, field in value.items():
                    yield f"{at} {name}"
                    yield from _fields(field, f"{at} {name}")
            case _, dict():
                yield from _fields(value, f"{at} {word}")
            case _:
                pass


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
