"""Records held against the AsyncAPI documents, which is all that another system knows of us."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import jsonschema_rs

from orderloop.asyncapi import SERVICES, document


@dataclass(frozen=True, slots=True)
class Record:
    """As it lies in Kafka; `topic` without a prefix."""

    topic: str
    key: bytes | None
    headers: Sequence[tuple[str, bytes | None]]
    body: bytes


def faults(record: Record) -> list[str]:
    """In words, what of the record the contract does not allow."""
    return [*_faults(record)]


def _faults(record: Record) -> Iterator[str]:
    key, headers, body = _contract(record.topic)
    said = {name: None if value is None else value.decode() for name, value in record.headers}
    parts: list[tuple[str, jsonschema_rs.Validator, Any]] = [
        ("key", key, None if record.key is None else record.key.decode()),
        ("headers", headers, said),
        ("body", body, json.loads(record.body)),
    ]
    for name, validator, value in parts:
        yield from (f"{name}: {error.message}" for error in validator.iter_errors(value))
        # and nothing beside it: what the contract does not name would be a promise nobody knows of
        yield from (f"{name}: {one} is not named" for one in _unnamed(record.topic, name, value))


def _unnamed(topic: str, part: str, value: Any) -> set[str]:
    return value.keys() - _named(topic)[part] if isinstance(value, dict) else set()


@cache
def _message(topic: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The topic's message, and the document that it stands in."""
    for service in SERVICES:
        whole = document(service)
        if topic in whole["channels"]:
            [name] = whole["channels"][topic]["messages"]
            return whole["components"]["messages"][name], whole
    raise KeyError(topic)


@cache
def _named(topic: str) -> dict[str, set[str]]:
    message, _ = _message(topic)
    return {
        "headers": set(message["headers"]["properties"]),
        "body": set(message["payload"]["schema"]["properties"]),
    }


@cache
def _contract(topic: str) -> tuple[jsonschema_rs.Validator, jsonschema_rs.Validator, jsonschema_rs.Validator]:
    """Of key, headers and body. References in an AsyncAPI document count from its own root."""
    message, whole = _message(topic)
    parts = (message["bindings"]["kafka"]["key"], message["headers"], message["payload"]["schema"])
    key, headers, body = (jsonschema_rs.validator_for({**whole, **part}, validate_formats=True) for part in parts)
    return key, headers, body
