"""Writes the pages that code already says: the order's states, the events, AsyncAPI, and every setting.

`make docs` writes them, `make check` fails when they differ from the code (`--check`).
"""

import importlib
import inspect
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from order_core import states
from order_core.states import TRANSITIONS, Event, Move, MoveBack, Record, Status, Verdict, Wait
from orderloop import asyncapi, topics
from orderloop import settings as common
from orderloop.events import BY_TOPIC
from orderloop.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
NOTE = "<!-- Written by docs/generate.py from {source}. Change that, then run `make docs`. -->"
PACKAGES = {name: name.replace("-", "_") for name in asyncapi.SERVICES}
CHINESE = {
    Status.PENDING: "待支付",
    Status.PAID: "已支付",
    Status.SHIPPING: "发货中",
    Status.SHIPPED: "已发货",
    Status.DELIVERED: "已签收",
    Status.PENDING_SETTLEMENT: "待分账结算",
    Status.COMPLETED: "已完成",
    Status.CLOSED: "已关闭",
    Status.REFUNDING: "退款中",
    Status.REFUNDED: "已退款",
}


def main(argv: list[str]) -> int:
    stale = [path for path, text in pages() if not path.exists() or path.read_text(encoding="utf-8") != text]
    if argv == ["--check"]:
        for path in stale:
            print(f"{path.relative_to(ROOT)} differs from the code: run `make docs`", file=sys.stderr)
        return 1 if stale else 0
    for path, text in pages():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    print("\n".join(f"wrote {path.relative_to(ROOT)}" for path in stale) or "everything was up to date")
    return 0


def pages() -> Iterator[tuple[Path, str]]:
    yield ROOT / "docs/order-states.md", order_states()
    yield ROOT / "docs/events.md", events()
    for service in asyncapi.SERVICES:
        text = json.dumps(asyncapi.document(service), indent=2, ensure_ascii=False) + "\n"
        yield ROOT / f"docs/asyncapi/{service}.json", text
    yield ROOT / ".env.example", env_example()


# The order's states


def order_states() -> str:
    return "\n".join(
        [
            NOTE.format(source="services/order-core/order_core/states.py"),
            "# The states of an order",
            "",
            "One table in `order_core/states.py` says what every event does to an order in every status; nothing else",
            "does. What is not in it is illegal: it changes nothing, and the event stands at the desk, mostly as",
            "`illegal_transition`.",
            "",
            "```mermaid",
            "stateDiagram-v2",
            "    direction LR",
            f"    [*] --> {Status.PENDING}",
            *_arrows(),
            f"    {Status.REFUNDED} --> [*]",
            "```",
            "",
            "## Statuses",
            "| status | 中文 | in | out |",
            "|---|---|---|---|",
            *(_status_row(status) for status in Status),
            "",
            "## Every status, every event",
            "**→ status**: the order moves. **log**: written to the order's log as a version of its own, the status",
            "stays. **wait**: it came before its predecessor, and is kept until that comes or the wait is over.",
            "**back**: to the status before the refund was asked for. Empty: illegal.",
            "",
            "| event | " + " | ".join(Status) + " |",
            "|---|" + "---|" * len(Status),
            *(f"| `{event}` | " + " | ".join(_cell(status, event) for status in Status) + " |" for event in Event),
            "",
            "## Why",
            *(f"- {about}: {why.rstrip('.')}." for about, why in _reasons()),
            "",
        ]
    )


def _arrows() -> Iterator[str]:
    for status, row in TRANSITIONS.items():
        for event, verdict in row.items():
            if isinstance(verdict, Move):
                yield f"    {status} --> {verdict.to}: {event}"
    before_refund = [
        status for status, row in TRANSITIONS.items() if row.get(Event.REFUND_REQUESTED) == Move(Status.REFUNDING)
    ]
    for status in before_refund:
        yield f"    {Status.REFUNDING} --> {status}: {Event.REFUND_FAILED}"


def _status_row(status: Status) -> str:
    coming, _, going = _comment(states.Status, status.name).removeprefix("in: ").partition("; ")
    return f"| `{status}` | {CHINESE[status]} | {coming} | {going.removeprefix('out: ')} |"


def _cell(status: Status, event: Event) -> str:
    verdict: Verdict | None = TRANSITIONS[status].get(event)
    match verdict:
        case Move(to):
            return f"→ {to}"
        case Record():
            return "log"
        case Wait():
            return "wait"
        case MoveBack():
            return "back"
        case None:
            return ""


def _comment(where: type, member: str) -> str:
    """The comment at the end of a member's line."""
    found = re.search(rf"^    {member}\b[^\n]*?  # (.+)$", inspect.getsource(where), re.MULTILINE)
    return found[1] if found else ""


def _reasons() -> Iterator[tuple[str, str]]:
    """The comments inside the table: beside an event's line, on the line above it, or above a status."""
    table = inspect.getsource(states).partition("TRANSITIONS: ")[2].partition("\n}\n")[0]
    status, above = "", ""
    for line in table.splitlines():
        if found := re.match(r"    Status\.(\w+): \{", line):
            status = Status[found[1]].value
            if above:
                yield f"`{status}`", above
            above = ""
        elif found := re.match(r"    (?:    )?# (.+)", line):
            above = f"{above} {found[1]}".strip()
        elif found := re.match(r"        Event\.(\w+): [^#]*(?:  # (.+))?$", line):
            if why := found[2] or above:
                yield f"`{status}`, `{Event[found[1]]}`", why
            above = ""


# The events


def events() -> str:
    return "\n".join(
        [
            NOTE.format(source="shared/orderloop/events, topics.py and asyncapi.py"),
            "# The events",
            "",
            "CloudEvents 1.0 on Kafka in binary mode: attributes are headers, the body is JSON. Money is integer fen",
            "(1/100 yuan), times are RFC 3339 with an offset. Readers tolerate fields that they do not know; a new",
            "required field, or another meaning, is a new topic (`.v2`). JSON Schemas stand in `docs/asyncapi/`, and",
            "every service serves its own document at `/asyncapi`.",
            "",
            "## Headers of every record",
            "| header | value |",
            "|---|---|",
            "| key | `order_no` as `POST /v1/orders` has given it, UTF-8 |",
            "| `ce_specversion` | `1.0` |",
            "| `ce_id` | the event's id, below per event; with `ce_source` not longer than 256 characters |",
            f"| `ce_source` | {', '.join(f'`{source}`' for source in sorted(topics.HOUSE_SOURCES))}, or yours |",
            "| `ce_type` | the topic's name without a prefix |",
            "| `ce_time` | when it happened; without it the record's own time counts |",
            "| `ce_subject` | `order_no` once more, if given |",
            "| `content-type` | `application/json` |",
            "| `traceparent`, `tracestate` | W3C Trace Context, if the event belongs to a trace |",
            "",
            "A producer outside the house may choose its ids as it likes, as long as one id names one fact: it is",
            "read as `{ce_source}#{ce_id}`. The same id again with the same body is a repeat and changes nothing; with",
            "another body it is the anomaly `id_reused` ([anomalies](anomalies.md)), and changes nothing either.",
            "",
            "## Partitions",
            f"Every topic has {topics.PARTITIONS} partitions; one worker reads an order's partition of every topic.",
            "Keys are placed by murmur2, as Java clients and aiokafka do. **librdkafka clients must set**",
            "`partitioner=murmur2_random`; with their default, an order's events land elsewhere. That costs speed and",
            "lets events wait for each other more often; correctness never depends on it.",
            "",
            "## Dead letters",
            "What a reader cannot use goes to `<topic>.<group>.dlq`: the original key, headers and bytes, and beside",
            "them `dlq_reason`, `dlq_attempts` (how often it was tried), `dlq_origin` (topic-partition-offset) and",
            "`dlq_first_failure`. A record that the desk has sent to its topic again is the original one, and says in",
            "`dlq_sent` for which time.",
            "",
            "## Who says what to whom",
            "| event | topic | from | to |",
            "|---|---|---|---|",
            *(_event_row(topic) for topic in topics.ALL),
            "",
            *(line for topic in topics.ALL for line in _event(topic)),
        ]
    )


def _event_row(topic: str) -> str:
    name = BY_TOPIC[topic].__name__
    return f"| [{name}](#{name.lower()}) | `{topic}` | {', '.join(_producers(topic))} | {', '.join(_readers(topic))} |"


def _producers(topic: str) -> list[str]:
    inside = [service for service, sent in asyncapi.PUBLISHES.items() if topic in sent]
    return [*inside, "any warehouse"] if topic == topics.WAYBILL_CREATED else inside or ["nobody yet"]


def _readers(topic: str) -> list[str]:
    inside = [group for group, read in topics.GROUPS.items() if topic in read]
    return [*inside, "the world"] if topic == topics.ORDER_CHANGED else inside


def _event(topic: str) -> Iterator[str]:
    event = BY_TOPIC[topic]
    schema = asyncapi.schema(event)
    yield f"## {event.__name__}"
    yield " ".join(inspect.cleandoc(event.__doc__ or "").split())
    yield ""
    yield from _fields(event, schema, schema.get("$defs", {}))
    for name, part in schema.get("$defs", {}).items():
        if "properties" in part:
            yield f"`{name}`:"
            yield ""
            module = sys.modules[event.__module__]
            yield from _fields(getattr(module, name), part, schema["$defs"])


def _fields(model: type, schema: dict[str, Any], parts: dict[str, Any]) -> Iterator[str]:
    yield "| field | type | |"
    yield "|---|---|---|"
    required = schema.get("required", [])
    for name, field in schema["properties"].items():
        told = name if name in model.__annotations__ else f"{name}_"  # what is a word of Python
        notes = [_linked(_comment(model, told))] if told in model.__annotations__ else []
        optional = [] if name in required else [_optional(field)]
        yield f"| `{name}` | {_type(name, field, parts)} | {'; '.join(filter(None, [*optional, *notes]))} |"
    yield ""


def _optional(field: dict[str, Any]) -> str:
    return f"optional, {field['default']} without it" if field.get("default") else "optional"


def _linked(note: str) -> str:
    """A page that is spoken of, from the pages' own folder."""
    return re.sub(r"\bdocs/([\w-]+)\.md\b", r"[\1](\1.md)", note)


def _type(name: str, field: dict[str, Any], parts: dict[str, Any]) -> str:
    match field:
        case {"anyOf": alternatives}:
            return " or ".join(_type(name, one, parts) for one in alternatives)
        case {"$ref": ref}:
            part = str(ref).rpartition("/")[2]
            if "enum" not in parts[part]:
                return part
            states = vars(sys.modules["orderloop.events"])[part]  # in the order of the code, which tells a story
            return " / ".join(f"`{one}`" for one in states)
        case {"enum": values}:
            return " / ".join(f"`{value}`" for value in values)
        case {"const": value}:
            return f"`{value}`"
        case {"type": "array", "items": items}:
            return f"list of {_type(name, items, parts)}"
        case {"type": "string", "format": "date-time"}:
            return "time"
        case {"type": "integer"} if name.endswith("_fen"):
            return "integer, fen"
        case {"type": kind}:
            return str(kind)
        case _:
            return "any"


# The settings


def env_example() -> str:
    return "\n".join(
        [
            "# Every setting of every service. Written by docs/generate.py from the Settings classes: change those,",
            "# then run `make docs`. Services read the environment and nothing else:  set -a; . ./.env; set +a",
            "# A line without # is required by the services named above it; one with # shows the default.",
            "# A secret may lie in a file instead: <NAME>_FILE holds its path.",
            "",
            *(line for area, services in areas() for line in _area(area, services)),
        ]
    )


def areas() -> list[tuple[type[Settings], list[str]]]:
    """Every Settings class with the services that read it, the shared ones first."""
    modules = [common, *(importlib.import_module(f"{package}.settings") for package in PACKAGES.values())]
    found = {
        cls: _services_that_read(cls)
        for module in modules
        for cls in vars(module).values()
        if inspect.isclass(cls) and issubclass(cls, Settings) and cls is not Settings
    }
    return list(found.items())


def _services_that_read(cls: type[Settings]) -> list[str]:
    if cls in {common.LogSettings, common.TracingSettings, common.OutboxSettings, common.KafkaSettings}:
        return list(PACKAGES)  # orderloop.command reads them for every service
    return [
        service
        for service, package in PACKAGES.items()
        if any(
            re.search(rf"\b{cls.__name__}\b", path.read_text(encoding="utf-8"))
            for path in (ROOT / f"services/{service}/{package}").rglob("*.py")
        )
    ]


def variables(cls: type[Settings]) -> list[str]:
    prefix = str(cls.model_config.get("env_prefix", ""))
    return [prefix + name.upper() for name in cls.model_fields]


def _area(cls: type[Settings], services: list[str]) -> Iterator[str]:
    yield f"# --- {', '.join(services) if len(services) < len(PACKAGES) else 'every service'}"
    for variable, field in zip(variables(cls), cls.model_fields.values(), strict=True):
        secret = " (secret)" if "SecretStr" in str(field.annotation) else ""
        yield f"# {field.description or ''}{secret}".rstrip()
        if field.is_required():
            yield f"{variable}="
        else:
            default = field.get_default(call_default_factory=True)
            yield f"#{variable}={_value(default)}"
    yield ""


def _value(default: object) -> str:
    match default:
        case None:
            return ""
        case bool():
            return str(default).lower()
        case str() | int() | float():
            return str(default)
        case _:
            return json.dumps(default, default=str)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
