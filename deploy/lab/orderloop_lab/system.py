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
from collections.abc import Collection, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import asyncpg
from filelock import FileLock
from rich.progress import Progress

from orderloop.errors import OrderLoopError
from orderloop_lab import tracing
from orderloop_lab.backing import KAFKA, POSTGRES, REDIS, Backing, provide
from orderloop_lab.databases import (
    FINANCE,
    PACKAGES,
    admin_url_for,
    create_database,
    create_roles,
    migrate_database,
    url_for,
)
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
        environment: Mapping[str, str] = os.environ,
        settings: Mapping[str, Env] | None = None,
        only: Collection[str] | None = None,
        time_factor: float | None = None,
        progress: Progress | None = None,
    ) -> None:
        """`environment`: may name services to use instead of own ones. `settings`: per process, over the usual ones.
        `only`: of the simulators and services, those to start.
        """
        self.home = Home(folder)
        self.supervisor = Supervisor(self.home)
        self._environment = environment
        self._settings = settings or {}
        self._simulators = [name for name in SIMULATORS if only is None or name in only]
        self._services = [service for service in SERVICES if only is None or service.name in only]
        self._time_factor = self.home.remember("time-factor", time_factor, default=TIME_FACTOR)
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
                await asyncio.gather(*(self._start_simulator(name, surroundings) for name in self._simulators))
            with step(self._progress, "Services"):
                await asyncio.gather(*(self._start_service(service, surroundings) for service in self._services))

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
        """Databases are migrated while Kafka, the slowest by far, still starts."""
        prefix = self._prefix()
        postgres_admin_url, kafka_bootstrap, redis_url, traces = await asyncio.gather(
            self._databases(prefix),
            self._topics(prefix),
            self._provide(REDIS),
            tracing.start(self.home, self.supervisor),
        )
        listening = [*SIMULATORS, *(service.name for service in SERVICES if service.listens)]
        return Surroundings(
            home=self.home,
            backing=Backing(postgres_admin_url, kafka_bootstrap, redis_url),
            prefix=prefix,
            tracing=traces,
            urls={name: f"http://127.0.0.1:{self._port(name)}" for name in listening},
            time_factor=self._time_factor,
        )

    def _prefix(self) -> str:
        """Nothing on services of our own; elsewhere there may be another lab beside this one."""
        guest = {POSTGRES, KAFKA} & self._environment.keys()
        return f"lab_{self.home.id}_" if guest else ""

    async def _provide(self, service: str) -> str:
        return await provide(service, self.home, self.supervisor, self._progress, self._environment)

    async def _topics(self, prefix: str) -> str:
        bootstrap = await self._provide(KAFKA)
        with step(self._progress, "Topics"):
            await create_topics(bootstrap, prefix)
        return bootstrap

    async def _databases(self, prefix: str) -> str:
        admin_url = await self._provide(POSTGRES)
        with step(self._progress, "Databases"):
            await create_roles(admin_url)
            await asyncio.gather(*(_prepare_database(admin_url, database, prefix) for database in PACKAGES))
        return admin_url

    def _port(self, name: str) -> int:
        return self.home.port(name, in_use=self.supervisor.running(name))

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


async def _prepare_database(admin_url: str, database: str, prefix: str) -> None:
    """What `python -m <package> migrate` does, without four more processes to start."""
    await create_database(admin_url, database, prefix + database)
    try:
        await migrate_database(admin_url, database, prefix + database)
    except OrderLoopError as error:
        raise LabError(f"The database {prefix}{database} cannot be migrated: {error}") from error
