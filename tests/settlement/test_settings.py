"""Settings that would move money wrongly are refused at the start."""

from typing import Any

import pytest
from pydantic import ValidationError

from settlement.settings import BankSettings, SettlementSettings
from settlement.split import Receiver

BANK = {"base_url": "https://bank.example", "secret": "sixteen characters"}
SPLIT = {"platform_fee": 60, "platform_account": "P", "receivers": [{"name": "merchant", "account": "M"}]}


@pytest.mark.parametrize("address", ["https://bank.example", "http://127.0.0.1:9000", "http://localhost:9000"])
def test_the_bank_is_spoken_to_over_https_or_on_this_machine(address: str) -> None:
    assert BankSettings.model_validate(BANK | {"base_url": address}).base_url == address


@pytest.mark.parametrize(
    "wrong",
    [
        {"base_url": "http://bank.example"},
        {"base_url": "ftp://127.0.0.1"},
        {"secret": "short"},
        {"timeout_seconds": 60, "lease_seconds": 60},
        {"timeout_seconds": 0},
    ],
)
def test_a_bank_that_cannot_be_trusted_with_money_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        BankSettings.model_validate(BANK | wrong)


def test_a_lab_may_say_that_its_bank_has_no_https() -> None:
    settings = BankSettings.model_validate(BANK | {"base_url": "http://bank:9000", "allow_http": True})

    assert settings.timeout_seconds == 15


def test_the_secret_shows_nowhere() -> None:
    assert "sixteen" not in repr(BankSettings.model_validate(BANK))


def test_the_split_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORDERLOOP_SETTLEMENT_PLATFORM_FEE", "60")
    monkeypatch.setenv("ORDERLOOP_SETTLEMENT_PLATFORM_ACCOUNT", "P")
    monkeypatch.setenv("ORDERLOOP_SETTLEMENT_RECEIVERS", '[{"name": "merchant", "account": "M", "weight": 3}]')

    rule = SettlementSettings().rule()  # type: ignore[call-arg]

    assert (rule.platform_fee, rule.platform.account) == (60, "P")
    assert rule.receivers == (Receiver("merchant", "M", 3),)


@pytest.mark.parametrize("missing", SPLIT)
def test_nobodys_account_is_guessed(missing: str) -> None:
    with pytest.raises(ValidationError):
        SettlementSettings.model_validate({name: value for name, value in SPLIT.items() if name != missing})


@pytest.mark.parametrize(
    "wrong", [{"platform_fee": 10_001}, {"receivers": []}, {"receivers": [{"name": "platform", "account": "M"}]}]
)
def test_a_rule_that_cannot_split_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        SettlementSettings.model_validate(SPLIT | wrong)
