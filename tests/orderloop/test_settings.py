from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from orderloop.settings import (
    HttpSettings,
    KafkaSettings,
    OutboxSettings,
    PostgresSettings,
    Settings,
    TracingSettings,
    area,
)

CANARY = "canary-s3cret"


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("POSTGRES_URL", "POSTGRES_URL_FILE", "POSTGRES_OWNER_URL", "KAFKA_BOOTSTRAP", "TRACING_ENDPOINT"):
        monkeypatch.delenv(f"ORDERLOOP_{name}", raising=False)


def test_values_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORDERLOOP_HTTP_PORT", "9000")
    monkeypatch.setenv("ORDERLOOP_KAFKA_BOOTSTRAP", "a:1,b:2")

    assert HttpSettings().port == 9000
    assert KafkaSettings().bootstrap == "a:1,b:2"  # type: ignore[call-arg]


def test_a_secret_may_lie_in_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "url").write_text(f"postgresql://{CANARY}\n")
    monkeypatch.setenv("ORDERLOOP_POSTGRES_URL_FILE", str(tmp_path / "url"))

    assert PostgresSettings().url.get_secret_value() == f"postgresql://{CANARY}"  # type: ignore[call-arg]


def test_code_wins_over_the_environment_and_that_over_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "url").write_text("from-file")
    monkeypatch.setenv("ORDERLOOP_POSTGRES_URL_FILE", str(tmp_path / "url"))
    monkeypatch.setenv("ORDERLOOP_POSTGRES_URL", "from-environment")

    assert PostgresSettings().url.get_secret_value() == "from-environment"  # type: ignore[call-arg]
    assert PostgresSettings(url=SecretStr("from-code")).url.get_secret_value() == "from-code"  # type: ignore[call-arg]


def test_what_is_no_secret_is_not_read_from_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "port").write_text("9000")
    monkeypatch.setenv("ORDERLOOP_HTTP_PORT_FILE", str(tmp_path / "port"))

    assert HttpSettings().port == 8080


def test_a_missing_secret_file_is_an_error_not_a_missing_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORDERLOOP_POSTGRES_URL_FILE", "/nowhere")

    with pytest.raises(FileNotFoundError, match="/nowhere"):
        PostgresSettings()  # type: ignore[call-arg]


def test_an_empty_variable_is_an_unset_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORDERLOOP_TRACING_ENDPOINT", "")
    monkeypatch.setenv("ORDERLOOP_POSTGRES_URL", "")

    assert TracingSettings().endpoint is None
    with pytest.raises(ValidationError, match="url"):
        PostgresSettings()  # type: ignore[call-arg]


def test_settings_never_change_and_never_show_secrets() -> None:
    settings = PostgresSettings.model_validate({"url": CANARY, "owner_url": CANARY})

    assert CANARY not in f"{settings!r} {settings} {settings.model_dump_json()}"
    with pytest.raises(ValidationError, match="frozen"):
        settings.pool_size = 3  # type: ignore[misc]


def test_a_services_own_area_works_alike(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class BankSettings(Settings):
        model_config = area("BANK")
        secret: SecretStr

    (tmp_path / "secret").write_text(CANARY)
    monkeypatch.setenv("ORDERLOOP_BANK_SECRET_FILE", str(tmp_path / "secret"))

    assert BankSettings().secret.get_secret_value() == CANARY  # type: ignore[call-arg]


def test_a_relay_is_embedded_or_external_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORDERLOOP_OUTBOX_RELAY", "sometimes")

    with pytest.raises(ValidationError, match="relay"):
        OutboxSettings()
