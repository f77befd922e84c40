"""The firewall by itself: it does to requests what its rules say, and tells what it did."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.simulator import SimulatorProcess


@pytest.fixture
def waf(tmp_path: Path) -> Iterator[SimulatorProcess]:
    """In front of the bank's simulator, which answers /livez."""
    with (
        SimulatorProcess("bank", tmp_path / "bank", SIM_BANK_SECRET="secret") as bank,
        SimulatorProcess("waf", tmp_path / "waf", SIM_WAF_UPSTREAM=bank.url) as waf,
    ):
        yield waf


def test_without_rules_it_passes_on_and_brings_back(waf: SimulatorProcess) -> None:
    answer = waf.http.get("/sim/nothing-here")

    assert answer.status_code == 404
    assert waf.read("/sim/ledger")["requests"][0]["action"] == "pass"


@pytest.mark.parametrize(
    ("rule", "status", "holds"),
    [
        ({"action": "block_page", "brand": "aliyun"}, 405, "errors.aliyun.com"),
        ({"action": "block_page", "brand": "cloudflare"}, 403, "Cloudflare"),
        ({"action": "forbid"}, 403, "Forbidden"),
        ({"action": "human_check"}, 200, "人机验证"),
        ({"action": "bad_gateway"}, 502, "Bad Gateway"),
    ],
)
def test_it_answers_in_its_service_s_place(
    waf: SimulatorProcess, rule: dict[str, str], status: int, holds: str
) -> None:
    waf.http.put("/sim/rules", json=[rule]).raise_for_status()

    answer = waf.http.post("/anything", content=b"body")

    assert answer.status_code == status
    assert holds in answer.text


def test_the_first_rule_whose_conditions_all_hold_decides(waf: SimulatorProcess) -> None:
    rules = [
        {"action": "forbid", "path": "/a", "body": "bad"},
        {"action": "redirect", "path": "/a", "location": "/b"},
        {"action": "human_check", "user_agent": "Mozilla/4.0", "source": "127.0.0.0/8"},
        {"action": "forbid", "source": "10.0.0.0/8"},
    ]
    waf.http.put("/sim/rules", json=rules).raise_for_status()

    assert waf.http.post("/a", content=b"a bad word").status_code == 403
    assert waf.http.post("/a", content=b"a good word").headers["location"] == "/b"
    assert waf.http.post("/c", headers={"User-Agent": "Mozilla/4.0"}).status_code == 200
    assert waf.http.post("/c").status_code == 404


def test_a_rule_that_is_none_is_refused(waf: SimulatorProcess) -> None:
    assert not waf.http.put("/sim/rules", json=[{"action": "bite"}]).is_success
