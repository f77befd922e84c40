"""The commands that every service has: `serve`, `migrate`, `relay`."""

import asyncio
import sys
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from typing import Any

import asyncpg
import typer
import uvloop
from pydantic import ValidationError

from . import logs, outbox, serve, tracing
from .errors import OrderLoopError
from .health import Health
from .migrate import migrate
from .settings import HttpSettings, KafkaSettings, LogSettings, OutboxSettings, PostgresSettings, TracingSettings

Main = Callable[[], Coroutine[Any, Any, None]]


def create(service: str, package: str, run: Main) -> typer.Typer:
    """The command line of one service. `run` is its app.py's entry: it reads settings and serves until told to stop."""
    app = typer.Typer(
        name=service,
        help=f"OrderLoop {service}. Settings are environment variables ORDERLOOP_*; .env.example lists them all.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )

    @app.command("serve")
    def _serve() -> None:
        """Answer HTTP, consume events and publish the outbox, until SIGTERM."""
        main(service, run)

    @app.command("migrate")
    def _migrate() -> None:
        """Bring the database to the newest schema. Safe to run again, and by several at once."""

        async def apply() -> None:
            owner_url = PostgresSettings().owner_url  # type: ignore[call-arg]
            if owner_url is None:
                raise OrderLoopError("ORDERLOOP_POSTGRES_OWNER_URL is not set; migrations run as the schema's owner")
            applied = await migrate(owner_url.get_secret_value(), package)
            typer.echo(f"{service}: {', '.join(applied) if applied else 'nothing to migrate'}")

        main(service, apply)

    @app.command("relay")
    def _relay() -> None:
        """Publish the outbox, and nothing else. For ORDERLOOP_OUTBOX_RELAY=external; any number may run, one leads.

        Answers /livez and /metrics where ORDERLOOP_HTTP_PORT is set.
        """

        async def publish() -> None:
            tasks, settings = {"relay": relay(service).run}, HttpSettings()  # type: ignore[call-arg]
            if "port" not in settings.model_fields_set:
                await serve.run(tasks)
                return
            from .http import create_app  # noqa: PLC0415 # takes a second, and most relays are not asked

            title = f"{service} relay"
            app = create_app(service, title=title, description="Publishes the outbox.", health=Health())
            await serve.serve(app, settings, tasks=tasks)

        main(service, publish)

    return app


def relay(service: str) -> outbox.Relay:
    """The relay of a service, from the settings of its environment."""
    return outbox.Relay(
        source=f"/{service}",
        postgres_settings=PostgresSettings(),  # type: ignore[call-arg]
        kafka_settings=KafkaSettings(),  # type: ignore[call-arg]
        settings=OutboxSettings(),  # type: ignore[call-arg]
    )


def main(service: str, run: Main) -> None:
    """Run one command: logs and traces first, and errors that a person can act on as one sentence, exit code 2."""
    with _explained(service):
        logs.configure(LogSettings(), service)  # type: ignore[call-arg]
        flush = tracing.configure(TracingSettings(), service)  # type: ignore[call-arg]
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(run())
        finally:
            flush()


@contextmanager
def _explained(service: str) -> Generator[None]:
    try:
        yield
    except ValidationError as error:
        if not error.title.endswith("Settings"):
            raise
        prefix = "ORDERLOOP_" + error.title.removesuffix("Settings").upper() + "_"
        # One that concerns several settings names them itself, after "Value error, ".
        faults = [
            prefix + "_".join(map(str, one["loc"])).upper() if one["loc"] else one["msg"] for one in error.errors()
        ]
        sys.exit(_say(service, f"missing or wrong setting: {', '.join(faults)} (.env.example explains each)"))
    except (OrderLoopError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
        sys.exit(_say(service, str(error)))


def _say(service: str, sentence: str) -> int:
    typer.echo(f"{service}: {sentence}", err=True)
    return 2
