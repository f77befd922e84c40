"""The bank simulator keeps its own promises; what it testifies about us is only worth as much."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.bank import BankProcess, signed


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BankProcess]:
    with BankProcess(tmp_path_factory.mktemp("bank"), SIM_TIME_FACTOR="10") as bank:
        yield bank


@pytest.fixture(autouse=True)
def good_manners(bank: BankProcess) -> None:
    bank.behave()


def instruction(name: str, merchant_fen: int = 9_841) -> dict[str, Any]:
    return {
        "instruction_id": f"{name}_P1",
        "order_no": name,
        "currency": "CNY",
        "total_fen": merchant_fen + 59,
        "payouts": [
            {"receiver": "merchant", "account": "6222-1", "amount_fen": merchant_fen},
            {"receiver": "platform", "account": "6222-2", "amount_fen": 59},
        ],
    }


def instruct(
    bank: BankProcess, wanted: dict[str, Any], *, timeout: float = 10, headers: dict[str, str] | None = None
) -> httpx.Response:
    body = json.dumps(wanted).encode()
    key = {"Idempotency-Key": wanted["instruction_id"], "Content-Type": "application/json"}
    return httpx.post(
        f"{bank.url}/v1/instructions",
        content=body,
        headers=key | signed("POST", "/v1/instructions", body) | (headers or {}),
        timeout=timeout,
        trust_env=False,
    )


def query(bank: BankProcess, instruction_id: str) -> httpx.Response:
    path = f"/v1/instructions/{instruction_id}"
    return httpx.get(bank.url + path, headers=signed("GET", path), trust_env=False)


def test_an_instruction_is_paid_at_once_and_stands_in_the_ledger(bank: BankProcess) -> None:
    answer = instruct(bank, instruction("usual"))

    assert answer.status_code == 200
    assert answer.json()["status"] == "SUCCESS"
    assert all(payout["arrived_at"] for payout in answer.json()["payouts"])
    assert bank.paid("usual") == {"merchant": (1, 9_841), "platform": (1, 59)}


def test_the_same_key_brings_the_same_instruction_and_moves_no_more_money(bank: BankProcess) -> None:
    first, again = instruct(bank, instruction("twice")), instruct(bank, instruction("twice"))

    assert first.json() == again.json()
    assert bank.paid("twice") == {"merchant": (1, 9_841), "platform": (1, 59)}
    assert bank.calls("twice") == ["instruct", "instruct"]


def test_the_same_key_with_another_body_is_refused(bank: BankProcess) -> None:
    instruct(bank, instruction("changed"))

    assert instruct(bank, instruction("changed", merchant_fen=1)).status_code == 422
    assert bank.paid("changed") == {"merchant": (1, 9_841), "platform": (1, 59)}


def test_a_second_payout_under_a_new_key_shows_in_the_ledger_as_a_second_payout(bank: BankProcess) -> None:
    instruct(bank, instruction("double"))
    instruct(bank, instruction("double") | {"instruction_id": "double_P2"})

    assert bank.paid("double") == {"merchant": (2, 19_682), "platform": (2, 118)}


def test_a_late_success_is_processing_first(bank: BankProcess) -> None:
    bank.will(order_no="late", settle_seconds=5)  # half a second here

    assert instruct(bank, instruction("late")).json()["status"] == "PROCESSING"
    assert bank.paid("late") == {}
    deadline = time.monotonic() + 20
    while query(bank, "late_P1").json()["status"] == "PROCESSING" and time.monotonic() < deadline:
        time.sleep(0.05)
    assert query(bank, "late_P1").json()["status"] == "SUCCESS"
    assert bank.paid("late") == {"merchant": (1, 9_841), "platform": (1, 59)}


@pytest.mark.parametrize("how", ["lost", "dropped"])
def test_a_cut_connection_answers_nothing(bank: BankProcess, how: str) -> None:
    bank.will(order_no=how, answer=how)

    with pytest.raises(httpx.TransportError):
        instruct(bank, instruction(how))
    assert bool(bank.paid(how)) == (how == "lost")


def test_a_slow_answer_comes_after_the_deed(bank: BankProcess) -> None:
    bank.will(order_no="slow", answer="slow", seconds=20)

    with pytest.raises(httpx.ReadTimeout):
        instruct(bank, instruction("slow"), timeout=0.3)
    assert query(bank, "slow_P1").json()["status"] == "SUCCESS"


@pytest.mark.parametrize(
    ("how", "status", "done"),
    [
        ("error", 500, True),
        ("unavailable", 503, False),
        ("throttled", 429, False),
        ("redirect", 302, True),
        ("html", 200, True),
        ("huge", 200, True),
    ],
)
def test_a_fault_strikes_once_and_then_all_is_well(bank: BankProcess, how: str, status: int, done: bool) -> None:
    bank.will(instruction_id=f"{how}_P1", answer=how)

    assert instruct(bank, instruction(how)).status_code == status
    assert bool(bank.paid(how)) == done
    assert instruct(bank, instruction(how)).json()["status"] == "SUCCESS"
    assert bank.paid(how) == {"merchant": (1, 9_841), "platform": (1, 59)}


def test_a_failure_can_strike_one_receiver_alone(bank: BankProcess) -> None:
    bank.will(order_no="partly", outcome="failed", failed_receivers=["platform"])

    answer = instruct(bank, instruction("partly")).json()

    assert answer["status"] == "PARTIAL"
    assert bank.paid("partly") == {"merchant": (1, 9_841)}


def test_a_failed_instruction_moves_nothing_and_says_why(bank: BankProcess) -> None:
    bank.will(order_no="failing", outcome="failed", bank_code="E777", reason="NO_RELATION")

    answer = instruct(bank, instruction("failing")).json()

    assert (answer["status"], answer["bank_code"]) == ("FAILED", "E777")
    assert {payout["reason"] for payout in answer["payouts"]} == {"NO_RELATION"}
    assert bank.paid("failing") == {}


def test_what_never_arrived_is_not_found(bank: BankProcess) -> None:
    answer = query(bank, "nobody_P1")

    assert (answer.status_code, answer.json()["code"]) == (404, "NOT_FOUND")


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Bank-Signature": "0" * 64},
        {"X-Bank-Timestamp": "1"},
        {"X-Bank-Timestamp": "soon"},
        signed("POST", "/v1/instructions", b"{}", secret="somebody else's"),
    ],
)
def test_a_call_that_is_not_ours_is_refused(bank: BankProcess, headers: dict[str, str]) -> None:
    assert instruct(bank, instruction("forged"), headers=headers).status_code == 401
    assert bank.paid("forged") == {}


@pytest.mark.parametrize(
    "wrong", [{"total_fen": 1}, {"payouts": []}, {"currency": "USD"}, {"total_fen": "9900"}, {"surprise": 1}]
)
def test_an_instruction_that_makes_no_sense_is_refused(bank: BankProcess, wrong: dict[str, Any]) -> None:
    assert instruct(bank, instruction("wrong") | wrong).status_code == 400


def test_the_books_survive_a_kill(tmp_path: Path) -> None:
    with BankProcess(tmp_path) as bank:
        instruct(bank, instruction("before"))
        bank.will(order_no="after", answer="unavailable")
        bank.kill()
        bank.start()

        assert bank.paid("before") == {"merchant": (1, 9_841), "platform": (1, 59)}
        assert instruct(bank, instruction("before")).json()["status"] == "SUCCESS"
        assert bank.paid("before") == {"merchant": (1, 9_841), "platform": (1, 59)}
        assert instruct(bank, instruction("after")).status_code == 503


def test_chance_depends_on_the_seed_and_the_instruction_alone(tmp_path: Path) -> None:
    def struck(seed: str, names: list[str]) -> set[str]:
        with BankProcess(tmp_path / f"{seed}-{names[0]}", SIM_SEED=seed) as bank:
            bank.will(rate=0.5, times=None, answer="unavailable")
            return {name for name in names if instruct(bank, instruction(name)).status_code == 503}

    names = [f"order{n}" for n in range(30)]
    once = struck("7", names)

    assert 0 < len(once) < len(names)
    assert struck("7", names[::-1]) == once
    assert struck("8", names) != once
