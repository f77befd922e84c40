"""The gate: whoever knows a release of the events can go on with the next one."""

import copy
from typing import Any

import pytest

from orderloop.topics import ALL, SETTLEMENT_RESULT, SHIPMENT_REQUESTED
from tests.contracts.compatibility import UNRELEASED, breakages, contracts, released, releases, younger

RELEASES = releases()


@pytest.mark.parametrize("release", RELEASES)
def test_nothing_that_was_released_is_broken(release: str) -> None:
    assert breakages(released(release), contracts()) == []


def test_the_first_release_knows_every_topic_that_there_was() -> None:
    assert RELEASES[0] == "1"
    assert released("1").keys() <= set(ALL)
    assert contracts().keys() == set(ALL)


def test_the_newest_release_keeps_everything_but_what_is_said_to_be_unreleased() -> None:
    assert younger(released(RELEASES[-1]), contracts()) == UNRELEASED


def test_what_is_younger_than_a_release_is_named() -> None:
    assert "orderloop.settlement-requested.v1 body attempt" in younger(released("1"), contracts())
    assert younger(released("2"), released("1")) == set()
    now: Any = copy.deepcopy(released("2"))
    now[SETTLEMENT_RESULT]["body"]["properties"]["planted"] = {"type": "object", "properties": {"deep": {}}}
    now[SHIPMENT_REQUESTED]["body"]["properties"]["items"]["items"]["properties"]["planted"] = {"type": "string"}
    now["orderloop.planted.v1"] = now[SETTLEMENT_RESULT]
    assert younger(released("2"), now) == {
        f"{SETTLEMENT_RESULT} body planted",
        f"{SETTLEMENT_RESULT} body planted deep",
        f"{SHIPMENT_REQUESTED} body items items planted",
        "orderloop.planted.v1",
    }


def test_a_refusal_that_the_first_release_did_not_speak_of_has_to_be_the_same() -> None:
    now: Any = copy.deepcopy(contracts())
    now[SETTLEMENT_RESULT]["body"]["properties"]["order_no"]["pattern"] = "^X"
    assert [fault.partition(":")[0] for fault in breakages(released("1"), now)] == [
        f"{SETTLEMENT_RESULT} order_no pattern"
    ]


BODY: dict[str, Any] = {
    "field removed": {"instruction_id": None},
    "made required": {"reason": "required"},
    "made optional": {"bank_code": "optional"},
    "type narrowed": {"reason": {"type": "string"}},
    "type widened": {"amount_fen": {"minimum": 0, "type": "number"}},
    "value removed": {"status": {"enum": ["FAILED", "SUCCESS"], "type": "string"}},
    "value added": {"status": {"enum": ["FAILED", "LOST", "PROCESSING", "SUCCESS"], "type": "string"}},
    "limit drawn closer": {"attempt": {"maximum": 3, "minimum": 1, "type": "integer"}},
    "required field added": {"planted": "required"},
}


@pytest.mark.parametrize("planted", BODY)
def test_a_planted_breakage_is_found_and_named(planted: str) -> None:
    now: Any = copy.deepcopy(contracts())
    body = now[SETTLEMENT_RESULT]["body"]
    [(field, change)] = BODY[planted].items()
    match change:
        case None:
            del body["properties"][field]
            body["required"].remove(field)
        case "required":
            body["properties"].setdefault(field, {"type": "string"})
            body["required"].append(field)
        case "optional":
            body["required"].remove(field)
        case schema:
            assert body["properties"][field] != schema
            body["properties"][field] = schema

    found = breakages(contracts(), now)

    assert found
    assert all(fault.startswith(f"{SETTLEMENT_RESULT} {field}") for fault in found), found


def test_a_planted_change_of_headers_and_a_lost_topic_are_found() -> None:
    now: Any = copy.deepcopy(contracts())
    now[SETTLEMENT_RESULT]["headers"]["required"].append("ce_time")
    assert breakages(contracts(), now) == [f"{SETTLEMENT_RESULT} ce_time: it is required now"]
    del now[SETTLEMENT_RESULT]
    assert breakages(contracts(), now) == [f"{SETTLEMENT_RESULT}: the topic is gone"]


def test_an_optional_field_more_and_better_words_break_nobody() -> None:
    now: Any = copy.deepcopy(contracts())
    now[SETTLEMENT_RESULT]["body"]["properties"]["planted"] = {"type": "string"}
    assert breakages(contracts(), now) == []
    assert "attempt" not in released("1")["orderloop.settlement-requested.v1"]["body"]["properties"]  # one that is real
