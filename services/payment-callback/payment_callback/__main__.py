"""python -m payment_callback serve | migrate | relay | republish"""

from datetime import UTC, datetime
from typing import Annotated

import typer

from orderloop import command

from . import app
from .moment import moment

main = command.create(app.SERVICE, "payment_callback", app.run)

_Moment = Annotated[datetime, typer.Option(parser=moment, help="RFC 3339 with an offset, or seconds since 1970")]


@main.command("republish")
def _republish(since: _Moment, until: _Moment | None = None) -> None:
    """Publish again what the channels told us from one moment on, from the memory (by default 90 days)."""

    async def run() -> None:
        count = await app.republish(since=since, until=until or datetime.now(UTC))
        typer.echo(f"{app.SERVICE}: {count} events staged again; the relay publishes them")

    command.main(app.SERVICE, run)


if __name__ == "__main__":
    main()
