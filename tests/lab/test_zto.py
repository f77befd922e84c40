"""The ZTO simulator checks the digest and knows its own parcels only."""

import base64
import hashlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from tests.support.simulator import SimulatorProcess

APP_KEY, SECRET = "lab-app", "lab-secret"


@pytest.fixture(scope="module")
def zto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatorProcess]:
    with SimulatorProcess(
        "zto",
        tmp_path_factory.mktemp("zto"),
        SIM_SEED="7",
        SIM_TIME_FACTOR="1",
        SIM_ZTO_APP_KEY=APP_KEY,
        SIM_ZTO_APP_SECRET=SECRET,
    ) as process:
        yield process


def ask(sim: SimulatorProcess, waybill_no: str, secret: str = SECRET) -> httpx.Response:
    body = json.dumps({"billCode": waybill_no})
    digest = base64.b64encode(hashlib.md5((body + secret).encode()).digest()).decode()
    return sim.http.post(
        "/zto.merchant.waybill.track.query",
        content=body,
        headers={"x-appKey": APP_KEY, "x-dataDigest": digest, "Content-Type": "application/json"},
    )


def scan_types(answer: httpx.Response) -> list[str]:
    entries: list[dict[str, Any]] = answer.json()["result"]
    return [entry["scanType"] for entry in entries]


def days_ago(days: float) -> str:
    return (datetime.now(UTC) - timedelta(days=days)).isoformat()


def test_a_wrong_digest_is_refused(zto: SimulatorProcess) -> None:
    assert ask(zto, "780000000001", secret="wrong").json()["status"] is False


def test_a_delivered_parcel_tells_its_whole_way(zto: SimulatorProcess) -> None:
    zto.tell("/sim/journeys", waybill_no="780000000002", courier="zto", label_at=days_ago(3))
    assert scan_types(ask(zto, "780000000002")) == ["下单", "收件", "发件", "到件", "派件", "签收"]


def test_a_parcel_may_be_told_as_going_backwards_or_back(zto: SimulatorProcess) -> None:
    zto.tell(
        "/sim/journeys",
        waybill_no="780000000003",
        courier="zto",
        label_at=days_ago(3),
        faults=["backwards", "returned"],
    )
    assert scan_types(ask(zto, "780000000003"))[-4:] == ["派件", "到件", "派件", "退件"]


def test_scans_may_come_in_any_order(zto: SimulatorProcess) -> None:
    zto.tell("/sim/journeys", waybill_no="780000000004", courier="zto", label_at=days_ago(3), faults=["out_of_order"])
    dates = [entry["scanDate"] for entry in ask(zto, "780000000004").json()["result"]]
    assert dates != sorted(dates)


def test_another_couriers_parcel_is_unknown_here(zto: SimulatorProcess) -> None:
    zto.tell("/sim/journeys", waybill_no="YT7000000005", courier="yto", label_at=days_ago(3))
    assert scan_types(ask(zto, "YT7000000005")) == []


def test_the_courier_itself_may_be_down(zto: SimulatorProcess) -> None:
    zto.tell("/sim/journeys", waybill_no="780000000006", courier="zto", faults=["direct_down"])
    assert ask(zto, "780000000006").status_code == 503
