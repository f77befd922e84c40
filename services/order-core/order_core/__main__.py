"""order-core's commands: serve, migrate, relay, explain, republish, retention."""

from datetime import datetime
from typing import Annotated

import typer

from orderloop import command
from orderloop.errors import Permanent

from .app import explained, republished, retained, run
from .words import Language

app = command.create("order-core", "order_core", run)


@app.command("explain")
def _explain(
    order_no: str,
    lang: Annotated[Language, typer.Option(help="the language of the story")] = "en",
    as_json: Annotated[bool, typer.Option("--json", help="the timeline, for programs")] = False,
) -> None:
    """What happened to an order, what it waits for and since when, what can be done, and its traces."""

    async def tell() -> None:
        if (story := await explained(order_no, lang, as_json=as_json)) is None:
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


@app.command("retention")
def _retention(dry_run: Annotated[bool, typer.Option("--dry-run", help="only say what would go")] = False) -> None:
    """Remove what is finished and old: idempotency keys, dead letters, evidence, whole months of history."""

    async def retain() -> None:
        if (lines := await retained(dry_run=dry_run)) is None:
            typer.echo("order-core: another run is at it")
            return
        for line in lines:
            fate = f"kept: {line.kept}" if line.kept else "would go" if dry_run else "gone"
            typer.echo(f"{line.what:<32} {'' if line.rows is None else line.rows:>10}  {fate}")

    command.main("order-core", retain)


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
