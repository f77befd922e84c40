"""The direction of imports. import-linter holds the layers (`make imports`); here are the rules in plain Python."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.rules.source import LAB, ROOT, SERVICES, SHARED, imported, python

# Values in, values out. Packages stand for everything in them.
PURE = (
    "order_core/closing.py",
    "order_core/decide.py",
    "order_core/explain.py",
    "order_core/money.py",
    "order_core/orders.py",
    "order_core/parcels.py",
    "order_core/refunds.py",
    "order_core/repairs.py",
    "order_core/settling.py",
    "order_core/states.py",
    "order_core/timers.py",
    "order_core/words.py",
    "payment_callback/channels",
    "payment_callback/address.py",
    "payment_callback/budget.py",
    "payment_callback/doctor/allow_list.py",
    "payment_callback/doctor/reading.py",
    "payment_callback/doctor/url.py",
    "payment_callback/doctor/verdict.py",
    "payment_callback/masking.py",
    "payment_callback/moment.py",
    "payment_callback/pages/words.py",
    "payment_callback/pace.py",
    "logistics_poller/schedule.py",
    "logistics_poller/tracks.py",
    "settlement/answers.py",
    "settlement/split.py",
    "settlement/states.py",
)
IMPURE = {"asyncio", "asyncpg", "aiosql", "aiokafka", "httpx", "redis", "logging", "structlog", "time", "random"}
IMPURE_OURS = {f"orderloop.{name}" for name in ("clock", "logs", "postgres", "outbox", "tracing", "metrics")}


def _foreign_services(text: str, package: str) -> set[str]:
    roots = {module.partition(".")[0] for module in imported(text, package)}
    return roots & (SERVICES.keys() | {"orderloop_lab"}) - {package}


def _impurities(text: str, package: str) -> set[str]:
    modules = imported(text, package)
    return {module for module in modules if module.partition(".")[0] in IMPURE} | modules & IMPURE_OURS


def _is_async(text: str) -> bool:
    kinds = (ast.AsyncFunctionDef, ast.AsyncFor, ast.AsyncWith, ast.Await)
    return any(isinstance(node, kinds) for node in ast.walk(ast.parse(text)))


def _reads_the_clock(text: str) -> bool:
    calls = (node.func for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call))
    return any(isinstance(func, ast.Attribute) and func.attr in {"now", "utcnow", "today"} for func in calls)


@pytest.mark.parametrize("package", SERVICES)
def test_a_service_imports_no_other_service_and_no_lab(package: str) -> None:
    found = {
        path: foreign
        for path in python(SERVICES[package])
        if (foreign := _foreign_services(path.read_text(encoding="utf-8"), package))
    }
    assert found == {}


def test_the_shared_library_imports_no_service() -> None:
    found = [p for p in python(SHARED) if _foreign_services(p.read_text(encoding="utf-8"), "orderloop")]
    assert found == []


def test_the_simulators_import_nothing_of_what_they_test() -> None:
    found = [
        path
        for path in python(LAB / "simulators")
        if {module.partition(".")[0] for module in imported(path.read_text(encoding="utf-8"), "orderloop_lab")}
        & {"orderloop", *SERVICES}
    ]
    assert found == []


@pytest.mark.parametrize("module", PURE)
def test_a_pure_module_knows_no_clock_no_loop_no_database_and_no_log(module: str) -> None:
    package = module.partition("/")[0]
    path = SERVICES[package].parent / module
    for file in [path] if path.is_file() else python(path):
        text = file.read_text(encoding="utf-8")
        assert _impurities(text, package) == set()
        assert not _is_async(text)
        assert not _reads_the_clock(text)


def test_the_pure_modules_are_those_that_import_linter_watches() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contract = next(c for c in config["tool"]["importlinter"]["contracts"] if c["id"] == "pure")
    assert sorted(contract["source_modules"]) == sorted(p.removesuffix(".py").replace("/", ".") for p in PURE)


@pytest.mark.parametrize(
    "planted", ["import asyncio", "from asyncpg import Record", "from orderloop.clock import Clock"]
)
def test_a_planted_impurity_would_be_found(planted: str) -> None:
    assert _impurities(planted, "order_core")


def test_a_planted_foreign_import_would_be_found() -> None:
    assert _foreign_services("from settlement.split import split", "order_core") == {"settlement"}
    assert _foreign_services("def f():\n    import orderloop_lab", "order_core") == {"orderloop_lab"}
    assert _foreign_services("from .states import Status", "order_core") == set()


def test_import_linter_finds_a_layer_that_looks_up(tmp_path: Path) -> None:
    package = tmp_path / "planted"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "store.py").write_text("from . import http\n")
    (package / "http.py").touch()
    (tmp_path / "pyproject.toml").write_text(
        '[tool.importlinter]\nroot_packages = ["planted"]\n'
        '[[tool.importlinter.contracts]]\nname = "layers"\ntype = "layers"\ncontainers = ["planted"]\n'
        'exhaustive = true\nlayers = ["http", "store"]\n'
    )
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([linter, "--no-cache"], check=False, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert "planted.store is not allowed to import planted.http" in done.stdout
