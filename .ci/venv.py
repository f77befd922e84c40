"""Makes .venv as requirements.lock says, and repairs a half-made one. Run by make, with Python and nothing else.

The workspace's own packages are installed editable and without network: their dependencies, and what builds them, stand
in the lock. `.venv/made` names the folder it was made in and is written last: without it nothing in .venv is trusted.
"""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
MADE = VENV / "made"
LOCK = ROOT / "requirements.lock"
PACKAGES = ("shared", *(f"services/{path.name}" for path in sorted((ROOT / "services").iterdir())), "deploy/lab")
# .venv depends on these; editing code needs no new installation.
SOURCES = (LOCK, *(ROOT / package / "pyproject.toml" for package in PACKAGES))


def main() -> None:
    with LOCK.open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # `make demo` and `make test` may start at the same moment
        if is_current():
            return
        if not is_usable():
            say("making .venv")
            run([sys.executable, "-m", "venv", "--clear", str(VENV)], "cannot make .venv")
        MADE.unlink(missing_ok=True)
        install()
        MADE.write_text(f"{ROOT}\n", encoding="utf-8")


def is_current() -> bool:
    return is_usable() and all(MADE.stat().st_mtime >= source.stat().st_mtime for source in SOURCES)


def is_usable() -> bool:
    """Whether .venv was finished once, in this very folder (its scripts hold the path), and its Python still runs."""
    if not MADE.exists() or MADE.read_text(encoding="utf-8").strip() != str(ROOT):
        return False
    probe = [str(VENV / "bin" / "python"), "-c", "import pip"]
    try:
        return subprocess.run(probe, check=False, capture_output=True).returncode == 0
    except OSError:
        return False


def install() -> None:
    pip = [str(VENV / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "--no-input", "install"]
    pinned = sum(1 for line in LOCK.read_text(encoding="utf-8").splitlines() if "==" in line and line[0] != " ")
    say(f"installing {pinned} locked packages into .venv (a minute or two the first time)")
    install_locked([*pip, "--progress-bar", "off", "--no-deps", "--require-hashes", "-r", str(LOCK)], pinned)
    editable = [argument for package in PACKAGES for argument in ("-e", str(ROOT / package))]
    say("installing the workspace itself")
    run([*pip, "--quiet", "--no-index", "--no-deps", "--no-build-isolation", *editable], "cannot install the workspace")


def install_locked(argv: "list[str]", pinned: int) -> None:
    """pip, with a count of packages in place of its hundreds of lines."""
    lines: list[str] = []
    seen = 0
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment()) as pip:
        for line in pip.stdout or ():
            lines.append(line)
            if line.startswith("Collecting"):
                seen += 1
                if sys.stderr.isatty():
                    print(f"\r  {seen} of {pinned}", end="", file=sys.stderr, flush=True)
                elif seen % 25 == 0:
                    say(f"{seen} of {pinned}")
            elif line.startswith("Installing collected"):
                if sys.stderr.isatty():
                    print(file=sys.stderr)
                say("unpacking")
    if pip.returncode:
        fail("cannot install the locked packages; is the package index reachable?", "".join(lines[-12:]))


def run(argv: "list[str]", complaint: str) -> None:
    done = subprocess.run(
        argv, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment()
    )
    if done.returncode:
        fail(complaint, done.stdout)


def environment() -> "dict[str, str]":
    """A virtual environment around us, or options meant for another one, must not reach into ours."""
    meant_for_others = (
        "PYTHONPATH",
        "PYTHONHOME",
        "VIRTUAL_ENV",
        "PIP_USER",
        "PIP_TARGET",
        "PIP_PREFIX",
        "PIP_REQUIRE_VIRTUALENV",
    )
    return {name: value for name, value in os.environ.items() if name not in meant_for_others}


def say(sentence: str) -> None:
    print(f"  {sentence}", file=sys.stderr, flush=True)


def fail(complaint: str, output: str) -> None:
    sys.exit(f"{output.rstrip()}\n{complaint} (run make again to go on; {VENV} is made anew)")


if __name__ == "__main__":
    main()
