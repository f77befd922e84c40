"""The AsyncAPI documents: of the 3.0 shape, complete, and without a reference that leads nowhere."""

from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest

from orderloop import topics
from orderloop.asyncapi import PUBLISHES, SERVICES, document
from orderloop.events import BY_TOPIC
from tests.contracts.test_events import golden


def _references(node: Any) -> Iterator[str]:
    match node:
        case {"$ref": str(reference)}:
            yield reference
        case dict():
            for value in node.values():
                yield from _references(value)
        case list():
            for value in node:
                yield from _references(value)
        case _:
            pass


def _resolve(root: dict[str, Any], reference: str) -> Any:
    """Raises KeyError when the reference leads nowhere."""
    node: Any = root
    for step in reference.removeprefix("#/").split("/"):
        node = node[step.replace("~1", "/").replace("~0", "~")]
    return node


def _follow_all(root: dict[str, Any]) -> None:
    for reference in _references(root):
        _resolve(root, reference)


@pytest.mark.parametrize("service", SERVICES)
def test_every_reference_leads_somewhere(service: str) -> None:
    _follow_all(document(service))


@pytest.mark.parametrize("service", SERVICES)
def test_the_document_has_the_shape_of_version_3(service: str) -> None:
    found = document(service)
    assert found["asyncapi"] == "3.0.0"
    assert found.keys() <= {"asyncapi", "id", "info", "servers", "defaultContentType", "channels", "operations"} | {
        "components"
    }
    assert {"title", "version"} <= found["info"].keys()
    for channel in found["channels"].values():
        assert isinstance(channel["address"], str)
        assert all(message.keys() == {"$ref"} for message in channel["messages"].values())
    for operation in found["operations"].values():
        assert operation["action"] in {"send", "receive"}
        assert _resolve(found, operation["channel"]["$ref"]) in found["channels"].values()


@pytest.mark.parametrize("service", SERVICES)
def test_every_topic_that_a_service_touches_is_in_its_document(service: str) -> None:
    found = document(service)["operations"]
    assert {name.partition("-")[2] for name in found if name.startswith("send-")} == set(PUBLISHES[service])
    assert {name.partition("-")[2] for name in found if name.startswith("receive-")} == set(
        topics.GROUPS.get(service, ())
    )


@pytest.mark.parametrize("service", SERVICES)
def test_the_payload_schemas_accept_the_golden_samples_where_they_stand(service: str) -> None:
    """Inside the document, so that a schema's references are followed as a tool would follow them."""
    found = document(service)
    for channel in found["channels"].values():
        name = next(iter(channel["messages"]))
        pointer = f"#/components/messages/{name}/payload/schema"
        validator = jsonschema_rs.validator_for({**found, "$ref": pointer})
        body = golden(channel["address"])
        assert validator.is_valid(body)
        assert not validator.is_valid({**body, "order_no": 1})


def test_what_somebody_reads_somebody_sends() -> None:
    sent = {topic for each in PUBLISHES.values() for topic in each}
    read = {topic for each in topics.GROUPS.values() for topic in each}
    assert read <= sent
    assert sent - read <= {topics.ORDER_CHANGED}  # the world reads it, whether or not one of us does
    assert sent == set(BY_TOPIC) == set(topics.ALL)


def test_a_planted_dead_reference_would_be_found() -> None:
    planted = document("order-core")
    planted["operations"]["planted"] = {"action": "send", "channel": {"$ref": "#/channels/nowhere"}}
    with pytest.raises(KeyError, match="nowhere"):
        _follow_all(planted)
