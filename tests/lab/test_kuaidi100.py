"""The aggregator simulator checks what the real one checks, and its parcels move as their script says."""

import hashlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.support.simulator import SimulatorProcess

CUSTOMER, KEY = "CUSTOMER-1", "lab-key"
FACTOR = 60  # an hour of a parcel's life in a minute: no test is so slow that its parcel moves on meanwhile


@pytest.fixture(scope="module")
def kuaidi100(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatorProcess]:
    with SimulatorProcess(
        "kuaidi100",
        tmp_path_factory.mktemp("kuaidi100"),
        SIM_SEED="7",
        SIM_TIME_FACTOR=str(FACTOR),
        SIM_KUAIDI100_CUSTOMER=CUSTOMER,
        SIM_KUAIDI100_KEY=KEY,
    ) as process:
        yield process


def ago(hours: float) -> str:
    """The moment that lies `hours` of a parcel's life back."""
    return (datetime.now(UTC) - timedelta(hours=hours) / FACTOR).isoformat()


def ask(sim: SimulatorProcess, num: str, com: str = "yuantong", key: str = KEY, **param: str) -> dict[str, Any]:
    text = json.dumps({"com": com, "num": num, "resultv2": "4", **param})
    sign = hashlib.md5(f"{text}{key}{CUSTOMER}".encode()).hexdigest().upper()
    return sim.http.post("/poll/query.do", data={"customer": CUSTOMER, "sign": sign, "param": text}).json()


def codes(answer: dict[str, Any]) -> list[str]:
    return [entry["statusCode"] for entry in answer["data"]]


def test_a_wrong_signature_is_refused(kuaidi100: SimulatorProcess) -> None:
    assert ask(kuaidi100, "YT70000001", key="wrong")["returnCode"] == "503"


def test_an_unknown_waybill_has_no_track(kuaidi100: SimulatorProcess) -> None:
    assert ask(kuaidi100, "YT79999999")["returnCode"] == "500"


@pytest.mark.parametrize(
    ("hours", "expected"),
    [
        (0, []),
        (1, ["101"]),
        (60, ["301", "5", "1001", "1002", "103", "101"]),  # newest first
    ],
)
def test_a_parcel_moves_along_its_journey(kuaidi100: SimulatorProcess, hours: float, expected: list[str]) -> None:
    num = f"YT7000010{hours}"
    kuaidi100.tell("/sim/journeys", waybill_no=num, courier="yto", label_at=ago(hours))
    answer = ask(kuaidi100, num)
    assert (codes(answer) if "data" in answer else []) == expected


def test_the_seed_and_the_waybill_decide_the_journey(kuaidi100: SimulatorProcess, tmp_path: Path) -> None:
    label_at = ago(60)
    with SimulatorProcess(
        "kuaidi100",
        tmp_path,
        SIM_SEED="7",
        SIM_TIME_FACTOR=str(FACTOR),
        SIM_KUAIDI100_CUSTOMER=CUSTOMER,
        SIM_KUAIDI100_KEY=KEY,
    ) as twin:
        for sim in (kuaidi100, twin):
            sim.tell("/sim/journeys", waybill_no="YT70000200", courier="yto", label_at=label_at)
        assert ask(kuaidi100, "YT70000200")["data"] == ask(twin, "YT70000200")["data"]


@pytest.mark.parametrize(
    ("fault", "return_code"), [("silent", "500"), ("aggregator_down", "502"), ("label_only", None)]
)
def test_planned_faults_of_one_waybill(kuaidi100: SimulatorProcess, fault: str, return_code: str | None) -> None:
    num = f"YT700003{len(fault):02d}"
    kuaidi100.tell("/sim/journeys", waybill_no=num, courier="yto", label_at=ago(60), faults=[fault])
    answer = ask(kuaidi100, num)
    assert answer.get("returnCode") == return_code
    if return_code is None:
        assert codes(answer) == ["101"]


def test_a_maintenance_page_comes_with_status_200(kuaidi100: SimulatorProcess) -> None:
    kuaidi100.tell("/sim/journeys", waybill_no="YT70000400", courier="yto", faults=["aggregator_html"])
    param = json.dumps({"com": "yuantong", "num": "YT70000400"})
    sign = hashlib.md5(f"{param}{KEY}{CUSTOMER}".encode()).hexdigest().upper()
    answer = kuaidi100.http.post("/poll/query.do", data={"customer": CUSTOMER, "sign": sign, "param": param})
    assert answer.status_code == 200
    assert answer.text.startswith("<!DOCTYPE html>")


def test_another_couriers_number_is_found_under_the_recognised_code_only(kuaidi100: SimulatorProcess) -> None:
    kuaidi100.tell("/sim/journeys", waybill_no="780000000500", courier="zto", label_at=ago(60), phone_tail="0000")
    assert ask(kuaidi100, "780000000500", com="shentong")["returnCode"] == "500"
    guesses = kuaidi100.read("/autonumber/auto", num="780000000500", key=KEY)
    assert guesses[0]["comCode"] == "zhongtong"
    assert ask(kuaidi100, "780000000500", com="zhongtong")["returnCode"] == "408"  # this courier wants the phone
    assert codes(ask(kuaidi100, "780000000500", com="zhongtong", phone="0000"))[0] == "301"


def test_the_forty_ninth_ask_locks_the_waybill(kuaidi100: SimulatorProcess) -> None:
    num = "YT70000600"
    # a day of this simulator lasts 2.4 s: the asks of one burst lie within it
    kuaidi100.tell("/sim/journeys", waybill_no=num, courier="yto", label_at=ago(0))
    for _ in range(49):
        ask(kuaidi100, num)
    locked = kuaidi100.read("/sim/ledger/asks")[num]
    assert (locked["asks"], locked["locked"]) == (49, True)


def test_asks_survive_a_kill(kuaidi100: SimulatorProcess) -> None:
    ask(kuaidi100, "YT70000700")
    kuaidi100.kill()
    kuaidi100.start()
    assert len(kuaidi100.read("/sim/ledger/asks", waybill_no="YT70000700")) == 1
