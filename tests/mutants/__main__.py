"""Put each mutant into a copy of the tree, and see its test fail there."""

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from orderloop_lab import backing
from orderloop_lab.home import Home
from orderloop_lab.processes import Supervisor
from orderloop_lab.progress import steps

from . import MUTANTS, Mutant

ROOT = Path(__file__).resolve().parents[2]
_LEFT_OUT = shutil.ignore_patterns(
    ".git", ".venv", ".lab", "__pycache__", ".pytest_cache", ".ruff_cache", ".hypothesis"
)
PASSED, FAILED = 0, 1  # pytest's exit codes; every other one means that nothing was tested
HUNG = 124  # not one of pytest's: that of timeout(1)
_SECONDS = 300  # a mutant may also make its test wait for ever
_VERDICTS = {PASSED: "SURVIVED", FAILED: "caught", HUNG: "caught, by hanging"}


def main(wanted: Sequence[str]) -> int:
    """`wanted`: parts of names; none means all."""
    mutants = [one for one in MUTANTS if not wanted or any(part in one.name for part in wanted)]
    with tempfile.TemporaryDirectory(prefix="orderloop-mutants-") as folder:
        copy = Path(folder) / "tree"
        shutil.copytree(ROOT, copy, ignore=_LEFT_OUT)
        home = Home(Path(folder) / "lab")
        try:
            services = asyncio.run(_services(home))
            return _run(copy, mutants, services)
        finally:
            asyncio.run(Supervisor(home).stop_all())
            home.remove()


async def _services(home: Home) -> dict[str, str]:
    """One PostgreSQL, Kafka and Valkey for all of them."""
    supervisor, progress = Supervisor(home), steps()
    names = (backing.POSTGRES, backing.KAFKA, backing.REDIS)
    with progress:
        urls = await asyncio.gather(*(backing.provide(name, home, supervisor, progress, {}) for name in names))
    return dict(zip(names, urls, strict=True))


def _run(copy: Path, mutants: Sequence[Mutant], services: dict[str, str]) -> int:
    if tested(copy, sorted({one.test for one in mutants}), services) != PASSED:
        print("the tests fail without any mutant: mend that first", file=sys.stderr)
        return 2
    codes: list[int] = []
    for mutant in mutants:
        began = time.monotonic()
        codes.append(_with(copy, mutant, services))
        verdict = _VERDICTS.get(codes[-1], f"not tested (pytest ended with {codes[-1]})")
        print(f"{verdict:18} {time.monotonic() - began:5.1f} s  {mutant.name}", flush=True)
    print(summary(codes))
    return int(not set(codes) <= {FAILED, HUNG})


def summary(codes: Sequence[int]) -> str:
    hung = codes.count(HUNG)
    # Whoever waits for ever has noticed something, and has not said what.
    apart = f", {hung} of them by a test that hangs and does not say why" if hung else ""
    return f"{codes.count(FAILED) + hung} of {len(codes)} mutants caught{apart}"


def _with(copy: Path, mutant: Mutant, services: dict[str, str]) -> int:
    before = {edit.file: (copy / edit.file).read_text(encoding="utf-8") for edit in mutant.edits}
    try:
        for edit in mutant.edits:
            text = (copy / edit.file).read_text(encoding="utf-8")
            (copy / edit.file).write_text(text.replace(edit.old, edit.new), encoding="utf-8")
        return tested(copy, [mutant.test], services)
    finally:
        for file, text in before.items():
            (copy / file).write_text(text, encoding="utf-8")


def tested(copy: Path, tests: Sequence[str], services: dict[str, str]) -> int:
    packages = [copy / "shared", copy / "deploy" / "lab", *sorted((copy / "services").iterdir())]
    environ = {"PYTHONPATH": os.pathsep.join(map(str, packages)), "PYTHONDONTWRITEBYTECODE": "1"}
    options = ["-q", "-x", "-p", "no:cacheprovider", "--no-header"]
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *options, *tests],
            cwd=copy,
            env=os.environ | environ | services,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=_SECONDS * (1 if len(tests) == 1 else 3),
        )
    except subprocess.TimeoutExpired:
        return HUNG
    if done.returncode != FAILED and (len(tests) == 1 or done.returncode != PASSED):
        print(done.stdout[-2000:], file=sys.stderr)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
