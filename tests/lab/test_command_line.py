import json
import sys
from pathlib import Path

import pytest

from orderloop_lab.__main__ import main


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ORDERLOOP_LAB_STATE", str(tmp_path / "lab"))
    monkeypatch.setenv("ORDERLOOP_LAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "lab"


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["orderloop_lab", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_status_of_a_lab_that_never_ran_is_empty(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "status", "--json") == 0
    assert json.loads(capsys.readouterr().out) == []


def test_down_is_fine_when_nothing_runs_and_remove_forgets_the_folder(
    monkeypatch: pytest.MonkeyPatch, state: Path
) -> None:
    assert run(monkeypatch, "down") == 0
    assert state.exists()
    assert run(monkeypatch, "down", "--remove") == 0
    assert not state.exists()


def test_what_a_person_can_mend_is_one_sentence_and_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "logs", "nobody") == 2
    told = capsys.readouterr().err
    assert "nobody has no log here" in told
    assert "Traceback" not in told


def test_without_go_jaeger_says_what_is_missing_and_what_still_works(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    assert run(monkeypatch, "jaeger") == 2
    assert "install Go" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command", ["up", "down", "status", "logs", "jaeger", "verify", "demo", "campaign", "campaigns"]
)
def test_every_command_explains_itself(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    assert run(monkeypatch, "--help") == 0
    assert f"  {command} " in capsys.readouterr().out
    assert run(monkeypatch, command, "--help") == 0
