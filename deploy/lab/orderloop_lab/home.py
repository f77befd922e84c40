"""The home of one lab: a state folder with its ports, secrets, logs, process records and data."""

import contextlib
import json
import os
import random
import secrets
import shutil
import socket
from collections.abc import Container
from pathlib import Path

from orderloop_lab.errors import LabError

# Below every system's ephemeral range, so that no outgoing connection sits on a port between two starts.
PORTS = range(20_000, 32_000)

# For what another account than root must reach when the state folder lies where only root can go.
ROOT_FOLDER = Path("/var/lib/orderloop-lab")


def default_folder() -> Path:
    """`ORDERLOOP_LAB_STATE`, or `.lab` in the nearest folder upwards that holds a pyproject.toml with a workspace."""
    if named := os.environ.get("ORDERLOOP_LAB_STATE"):
        return Path(named)
    here = Path.cwd()
    for folder in (here, *here.parents):
        project = folder / "pyproject.toml"
        if project.is_file() and "[tool.uv.workspace]" in project.read_text(encoding="utf-8"):
            return folder / ".lab"
    return here / ".lab"


class Home:
    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.log, self.run, self.secrets = (self.folder / name for name in ("log", "run", "secrets"))
        try:
            # Others may pass through (PostgreSQL's own account must), but not list.
            self.folder.mkdir(mode=0o711, parents=True, exist_ok=True)
            for private in (self.log, self.run, self.secrets):
                private.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise LabError(
                f"Cannot write the state folder {self.folder} ({error.strerror}): "
                "name a writable folder in ORDERLOOP_LAB_STATE."
            ) from error
        self.id = self.secret("lab-id", 4)

    def secret(self, name: str, size: int = 24) -> str:
        """A random text of `size` bytes in hex, made once and kept in a file that only its owner can read."""
        file = self.secrets / name
        if not file.exists():
            draft = self.secrets / f"{name}.{secrets.token_hex(4)}"
            draft.touch(mode=0o600)
            draft.write_text(secrets.token_hex(size), encoding="ascii")
            with contextlib.suppress(FileExistsError):  # somebody was faster: theirs counts
                os.link(draft, file)
            draft.unlink()
        return file.read_text(encoding="ascii")

    def port(self, name: str, *, in_use: bool = False) -> int:
        """The loopback port of `name`: the same as last time while it is free, or `in_use` by its owner."""
        file = self.folder / "ports.json"
        ports: dict[str, int] = json.loads(file.read_text()) if file.exists() else {}
        last = ports.get(name)
        if last is not None and (in_use or _is_free(last)):
            return last
        ports[name] = free_port(except_for=set(ports.values()))
        file.write_text(json.dumps(ports, indent=1))
        return ports[name]

    def remember(self, name: str, value: float | None, *, default: float) -> float:
        """`value`, kept for the next time; or, where it is None, what was kept, and `default` at first."""
        file = self.folder / name
        if value is not None:
            file.write_text(str(value), encoding="ascii")
        return float(file.read_text(encoding="ascii")) if file.exists() else default

    def outside(self) -> Path:
        """Where this lab keeps what must not lie in the state folder (see ROOT_FOLDER)."""
        return ROOT_FOLDER / self.id

    def remove(self) -> None:
        """Forgets everything. Only for a lab whose processes are stopped."""
        shutil.rmtree(self.outside(), ignore_errors=True)
        shutil.rmtree(self.folder)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As servers do: what lingers of closed connections does not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def free_port(*, except_for: Container[int] = ()) -> int:
    """A loopback port on which nobody listens, and that the kernel gives to no outgoing connection."""
    for port in random.SystemRandom().sample(PORTS, k=200):
        if port not in except_for and _is_free(port):
            return port
    raise LabError(f"No free loopback port between {PORTS.start} and {PORTS.stop}: stop whatever listens there.")
