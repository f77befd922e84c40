"""The lab's tracing backend: Jaeger where it has been built, the small receiver elsewhere. Same API either way."""

import sys
from dataclasses import dataclass

from orderloop_lab import jaeger
from orderloop_lab.home import Home
from orderloop_lab.processes import Command, Supervisor


@dataclass(frozen=True, slots=True)
class Tracing:
    endpoint: str  # OTLP/HTTP base, for services
    query_url: str  # base of /api/traces


async def start(home: Home, supervisor: Supervisor) -> Tracing:
    built = jaeger.binary()
    if built is None:
        return await _start_receiver(home, supervisor)
    running = supervisor.running(jaeger.NAME)
    ports = {purpose: home.port(f"{jaeger.NAME}-{purpose}", in_use=running) for purpose in jaeger.LISTENERS}
    folder = home.folder / jaeger.NAME
    folder.mkdir(exist_ok=True)
    config = folder / "config.yaml"
    config.write_text(jaeger.config(ports), encoding="ascii")
    await supervisor.start(
        Command(
            name=jaeger.NAME,
            argv=(str(built), "--config", str(config)),
            folder=str(folder),
            url=f"http://127.0.0.1:{ports['health']}/status",
            layer=1,
        )
    )
    return Tracing(f"http://127.0.0.1:{ports['otlp']}", f"http://127.0.0.1:{ports['query']}")


async def _start_receiver(home: Home, supervisor: Supervisor) -> Tracing:
    name = "otlp"
    port = home.port(name, in_use=supervisor.running(name))
    base = f"http://127.0.0.1:{port}"
    await supervisor.start(
        Command(
            name=name,
            argv=(sys.executable, "-m", "orderloop_lab.otlp", str(port)),
            folder=str(home.folder / name),
            url=f"{base}/livez",
            layer=1,
        )
    )
    return Tracing(base, base)
