"""The whole system as one object: `async with Lab(folder) as lab`.

    lab.urls["order-core"]                      where everything listens
    await lab.kill("order-core")                as the machine would: SIGKILL, or another signal
    await lab.restart("order-core", {"FAILPOINT": "…"})
    await lab.connect("order_core")             an asyncpg connection with the app role's rights

`python -m orderloop_lab up` does the same and leaves it running.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import asyncpg
from filelock import FileLock
from rich.progress import Progress

from orderloop_lab import backing, tracing
from orderloop_lab.backing import Backing
from orderloop_lab.databases import FINANCE, PACKAGES, admin_url_for, create_database, create_roles, url_for
from orderloop_lab.errors import LabError
from orderloop_lab.home import Home
from orderloop_lab.processes import Command, Status, Supervisor
from orderloop_lab.progress import step, steps
from orderloop_lab.services import SERVICES, SIMULATORS, Env, Service, Surroundings
from orderloop_lab.topics import create_topics

# An hour of waiting (for the next poll, the next retry, the parcel's next scan) passes in a second.
TIME_FACTOR = 3600.0


class Lab:
    def __init__(
        self,
        folder: Path,
        *,
        backing: Backing | None = None,
        environment: Mapping[str, str] = os.environ,
        settings: Mapping[str, Env] | None = None,
        time_factor: float = TIME_FACTOR,
        progress: Progress | None = None,
    ) -> None:
        """`backing`: run on these services instead of own ones. `settings`: per process name, over the usual ones."""
        self.home = Home(folder)
        self.supervisor = Supervisor(self.home)
        self._backing = backing
        self._environment = environment
        self._settings = settings or {}
        self._time_factor = time_factor
        self._progress = progress or steps(quiet=True)
        self._surroundings: Surroundings | None = None

    async def __aenter__(self) -> Self:
        try:
            await self.up()
        except BaseException:
            await self.down()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.down()

    async def up(self) -> None:
        """Starts whatever does not run yet; returns when everything is ready."""
        with FileLock(self.home.folder / "lock"):
            surroundings = await self._prepare()
            self._surroundings = surroundings
            with step(self._progress, "Simulators of the outside world"):
                await asyncio.gather(*(self._start_simulator(name, surroundings) for name in SIMULATORS))
            with step(self._progress, "Services"):
                await asyncio.gather(*(self._start_service(service, surroundings) for service in SERVICES))

    async def down(self, *, remove: bool = False) -> None:
        """Stops everything this lab has started; `remove` forgets its data too."""
        await self.supervisor.stop_all()
        if remove:
            self.home.remove()

    def status(self) -> list[Status]:
        return self.supervisor.status()

    async def kill(self, name: str, signal_number: int = signal.SIGKILL) -> None:
        await self.supervisor.kill(name, signal_number)

    async def restart(self, name: str, env: Mapping[str, str] | None = None) -> None:
        await self.supervisor.restart(name, env)

    def env_of(self, name: str) -> Env:
        """The environment that a service or simulator of this lab runs with."""
        service = next((service for service in SERVICES if service.name == name), None)
        env = self.surroundings.of_service(service) if service else self.surroundings.of_simulator(name)
        return env | self._settings.get(name, {})

    async def connect(self, database: str, role: str = "app") -> asyncpg.Connection:
        """`role`: app, owner, finance (settlement only) or admin."""
        admin_url, name = self.surroundings.backing.postgres_admin_url, self.surroundings.database(database)
        match role:
            case "admin":
                url = admin_url_for(admin_url, name)
            case "finance":
                url = url_for(admin_url, role=FINANCE, database=name)
            case _:
                url = self.surroundings.database_url(database, role)
        return await asyncpg.connect(url)

    @property
    def urls(self) -> Mapping[str, str]:
        return self.surroundings.urls

    @property
    def surroundings(self) -> Surroundings:
        if self._surroundings is None:
            raise LabError("This lab is not up: `python -m orderloop_lab up` starts it.")
        return self._surroundings

    async def _prepare(self) -> Surroundings:
        services = self._backing or await backing.start(self.home, self.supervisor, self._progress, self._environment)
        listening = [*SIMULATORS, *(service.name for service in SERVICES if service.listens)]
        surroundings = Surroundings(
            home=self.home,
            backing=services,
            prefix=self._prefix(),
            tracing=await tracing.start(self.home, self.supervisor),
            urls={name: f"http://127.0.0.1:{self._port(name)}" for name in listening},
            time_factor=self._time_factor,
        )
        with step(self._progress, "Databases and topics"):
            await create_roles(services.postgres_admin_url)
            await asyncio.gather(
                create_topics(services.kafka_bootstrap, surroundings.prefix),
                *(self._prepare_database(database, surroundings) for database in PACKAGES),
            )
        return surroundings

    def _prefix(self) -> str:
        """Nothing on services of our own; others may have a lab on the same ones."""
        own = self.supervisor.running("postgres") and self.supervisor.running("kafka")
        return "" if own else f"lab_{self.home.id}_"

    def _port(self, name: str) -> int:
        return self.home.port(name, in_use=self.supervisor.running(name))

    async def _prepare_database(self, database: str, surroundings: Surroundings) -> None:
        await create_database(surroundings.backing.postgres_admin_url, database, surroundings.database(database))
        owner = {"ORDERLOOP_POSTGRES_OWNER_URL": surroundings.database_url(database, "owner")}
        service = next(service for service in SERVICES if service.database == database)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", service.package, "migrate"),
            env={**os.environ, **surroundings.of_service(service), **owner},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await process.communicate()
        if process.returncode != 0:
            last = said.decode(errors="replace").strip().rpartition("\n")[2]
            raise LabError(f"The database {database} cannot be migrated: {last}")

    async def _start_simulator(self, name: str, surroundings: Surroundings) -> None:
        await self.supervisor.start(
            Command(
                name=name,
                argv=(sys.executable, "-m", f"orderloop_lab.simulators.{name}"),
                folder=str(surroundings.simulator_state(name)),
                url=f"{surroundings.urls[name]}/livez",
                env=self.env_of(name),
                layer=1,
            )
        )

    async def _start_service(self, service: Service, surroundings: Surroundings) -> None:
        await self.supervisor.start(
            Command(
                name=service.name,
                argv=(sys.executable, "-m", service.package, service.command),
                folder=str(self.home.folder / "work" / service.name),
                url=f"{surroundings.urls[service.name]}/readyz" if service.listens else "",
                env=self.env_of(service.name),
                layer=2,
            )
        )
