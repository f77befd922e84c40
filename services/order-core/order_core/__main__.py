"""order-core's commands: serve, migrate, relay, explain, republish."""

from datetime import datetime
from typing import Annotated

import typer

from orderloop import command
from orderloop.errors import Permanent

from .app import explained, republished, run
from .explain import Language

app = command.create("order-core", "order_core", run)


@app.command("explain")
def _explain(order_no: str, lang: Annotated[Language, typer.Option(help="the language of the story")] = "en") -> None:
    """What happened to an order, what it waits for and since when, what can be done, and its traces."""

    async def tell() -> None:
        if (story := await explained(order_no, lang)) is None:
            raise Permanent(f"no order has the number {order_no}")
        typer.echo(story, nl=False)

    command.main("order-core", tell)


@app.command("republish")
def _republish(
    since: Annotated[str, typer.Option(help="RFC 3339 with an offset, such as 2026-01-22T09:00:00+08:00")],
) -> None:
    """Publish again what the order log says from one moment on, under the same ids: after a restore."""

    async def publish() -> None:
        count = await republished(_moment(since))
        typer.echo(f"order-core: {count} events staged again; the relay publishes them")

    command.main("order-core", publish)


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise Permanent(f"{text!r} is not RFC 3339") from None
    if moment.tzinfo is None:
        raise Permanent(f"{text!r} has no offset; say which zone it is in, such as +08:00")
    return moment


if __name__ == "__main__":
    app()
