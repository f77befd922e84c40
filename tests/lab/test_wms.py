"""The warehouse simulator keeps its idempotency keys, and its ledger can hold what must never happen."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.simulator import SimulatorProcess


@pytest.fixture(scope="module")
def wms(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatorProcess]:
    with SimulatorProcess("wms", tmp_path_factory.mktemp("wms"), SIM_SEED="7") as process:
        yield process


def outbound(wms: SimulatorProcess, order_no: str, key: str | None = None, **change: Any) -> httpx.Response:
    shipment_id = f"{order_no}_S1"
    body = {
        "order_no": order_no,
        "shipment_id": shipment_id,
        "warehouse": "suzhou",
        "express_code": "zto",
        "items": [{"sku": "A", "name": "tea", "quantity": 1}],
        "receiver": {"name": "王", "phone": "13800001234", "region": "广东", "address": "1 号"},
    } | change
    return wms.http.post("/outbound", json=body, headers={"Idempotency-Key": key or shipment_id})


def active(wms: SimulatorProcess, order_no: str) -> list[str]:
    return wms.read("/sim/ledger/active").get(order_no, [])


def test_a_repeated_key_answers_the_same_shipment(wms: SimulatorProcess) -> None:
    first, second = outbound(wms, "O1"), outbound(wms, "O1")
    assert first.json() == second.json()
    assert first.json()["parcels"][0]["waybill_no"].startswith("7")
    assert active(wms, "O1") == ["O1_S1"]
    assert len(wms.read("/sim/ledger/calls", order_no="O1")) == 2


def test_another_body_under_the_same_key_is_refused(wms: SimulatorProcess) -> None:
    outbound(wms, "O2")
    refused = outbound(wms, "O2", express_code="sf")
    assert (refused.status_code, refused.json()["code"]) == (422, "IDEMPOTENCY_KEY_REUSED")


def test_another_key_ships_a_second_time_because_a_careless_warehouse_does(wms: SimulatorProcess) -> None:
    outbound(wms, "O3", key="one")
    outbound(wms, "O3", key="two")
    assert len(active(wms, "O3")) == 2


def test_a_second_active_shipment_can_be_planted_and_cancelled(wms: SimulatorProcess) -> None:
    outbound(wms, "O4")
    wms.tell("/sim/plant", order_no="O4", shipment_id="O4_S2")
    assert active(wms, "O4") == ["O4_S1", "O4_S2"]
    wms.tell("/outbound/O4_S1/cancel")
    assert active(wms, "O4") == ["O4_S2"]


@pytest.mark.parametrize(
    ("mode", "status", "shipped"), [("error", 503, 0), ("refuse", 422, 0), ("lost_answer", 500, 1)]
)
def test_a_fault_strikes_as_often_as_planned(wms: SimulatorProcess, mode: str, status: int, shipped: int) -> None:
    order_no = f"O5{mode}"
    wms.tell("/sim/faults", mode=mode, order_no=order_no)
    assert outbound(wms, order_no).status_code == status
    assert len(active(wms, order_no)) == shipped
    assert outbound(wms, order_no).status_code == 200
    assert len(active(wms, order_no)) == 1


def test_a_shipment_may_take_several_parcels(wms: SimulatorProcess) -> None:
    wms.tell("/sim/orders/O6", parcels=3)
    parcels = outbound(wms, "O6").json()["parcels"]
    assert [(p["parcel_no"], p["parcel_count"]) for p in parcels] == [(1, 3), (2, 3), (3, 3)]
    assert len({p["waybill_no"] for p in parcels}) == 3


def test_the_courier_is_told_of_the_parcel_even_when_it_was_away(tmp_path: Path) -> None:
    courier = SimulatorProcess("zto", tmp_path / "zto", SIM_ZTO_APP_KEY="k", SIM_ZTO_APP_SECRET="s")
    with SimulatorProcess("wms", tmp_path / "wms", SIM_WMS_COURIER_URLS=courier.url) as wms:
        wms.tell("/sim/orders/O7", journey=["silent"])
        waybill_no = outbound(wms, "O7").json()["parcels"][0]["waybill_no"]
        wms.kill()
        wms.start()
        with courier:
            known = courier.read_until_there("/sim/journeys")
            assert known[0]["waybill_no"] == waybill_no
            assert known[0]["faults"] == ["silent"]
            assert known[0]["phone_tail"] == "1234"
