"""python -m payment_callback serve | migrate | relay | republish | verify | doctor | canary"""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.markup import escape

from orderloop import command
from orderloop.errors import Permanent

from . import app, clinic, verify
from .doctor import allow_list, printing
from .moment import moment

main = command.create(app.SERVICE, "payment_callback", app.run)
_verify = typer.Typer(help="Judge a captured callback offline: 0 authentic, 1 refused, 2 unusable input.")
main.add_typer(_verify, name="verify")

_Moment = Annotated[datetime, typer.Option(parser=moment, help="RFC 3339 with an offset, or seconds since 1970")]
_File = Annotated[Path, typer.Option(exists=True, dir_okay=False)]


def _file(says: str) -> Any:
    return typer.Option(exists=True, dir_okay=False, help=says)


_Json = Annotated[bool, typer.Option("--json", help="one JSON object instead of text")]
_Lab = Annotated[bool, typer.Option(help="http, ports and private addresses are no faults here")]
_Authority = Annotated[Path | None, typer.Option("--ca", exists=True, help="a certificate authority to trust as well")]
_ConnectTo = Annotated[str | None, typer.Option(help="an address to connect to instead of what DNS says")]


@main.command("republish")
def _republish(since: _Moment, until: _Moment | None = None) -> None:
    """Publish again what the channels told us from one moment on, from the memory (by default 90 days)."""

    async def run() -> None:
        count = await app.republish(since=since, until=until or datetime.now(UTC))
        typer.echo(f"{app.SERVICE}: {count} events staged again; the relay publishes them")

    command.main(app.SERVICE, run)


@_verify.command("wechat")
def _verify_wechat(
    *,
    headers: _File,
    body: _File,
    at: _Moment,
    public_key: Annotated[Path | None, _file("pub_key.pem, with --serial")] = None,
    serial: Annotated[str | None, typer.Option(help="the public key's id, PUB_KEY_ID_…")] = None,
    certificate: Annotated[Path | None, _file("instead: a platform certificate")] = None,
    apiv3_key_file: Annotated[Path | None, _file("to see what it says as well")] = None,
    as_json: _Json = False,
) -> None:
    """A WeChat Pay callback: its headers (JSON, or lines of `Name: value`), its body, byte for byte, and its time."""

    def judge() -> verify.Judgement:
        if certificate is not None and public_key is None:
            key = verify.WechatKey.certificate(certificate.read_bytes())
        elif public_key is not None and serial is not None and certificate is None:
            key = verify.WechatKey.public(serial, public_key.read_bytes())
        else:
            raise Permanent("give --public-key with --serial, or --certificate")
        secret = apiv3_key_file.read_bytes().strip() if apiv3_key_file else None
        return verify.wechat(verify.headers(headers.read_bytes()), body.read_bytes(), at=at, key=key, apiv3_key=secret)

    _tell(judge, as_json)


@_verify.command("alipay")
def _verify_alipay(
    *,
    body: _File,
    public_key: Annotated[Path, _file("Alipay's public key: PEM or bare base64")],
    app_id: str | None = None,
    seller_id: str | None = None,
    as_json: _Json = False,
) -> None:
    """An Alipay callback: its form body, byte for byte."""

    def judge() -> verify.Judgement:
        return verify.alipay(
            body.read_bytes(),
            at=datetime.now(UTC),
            pem=public_key.read_bytes(),
            app_id=app_id,
            seller_id=seller_id,
        )

    _tell(judge, as_json)


@main.command("doctor")
def _doctor(
    *,
    url: Annotated[str | None, typer.Option(help="unset: ORDERLOOP_CALLBACK_NOTIFY_URL")] = None,
    echo: Annotated[bool, typer.Option(help="also let WeChat Pay send its own self-test")] = False,
    lab: _Lab = False,
    ca: _Authority = None,
    connect_to: _ConnectTo = None,
    as_json: _Json = False,
) -> None:
    """Why do callbacks not arrive? Looks at the notify URL as the channel would: 0 healthy, 1 not, 2 cannot look."""
    healthy = False

    async def run() -> None:
        nonlocal healthy
        diagnosis = await clinic.diagnose(clinic.Wishes(url, lab, ca, connect_to, echo))
        healthy = diagnosis.healthy
        if as_json:
            typer.echo(orjson.dumps(printing.as_json(diagnosis)).decode())
        else:
            printing.show(Console(), diagnosis)

    command.main(app.SERVICE, run)
    raise typer.Exit(0 if healthy else 1)


@main.command("canary")
def _canary(
    *,
    url: Annotated[str | None, typer.Option(help="unset: ORDERLOOP_CALLBACK_NOTIFY_URL")] = None,
    every: Annotated[float, typer.Option(min=1, help="seconds between two examinations")] = 300,
    echo: Annotated[bool, typer.Option(help="also let WeChat Pay send its own self-test")] = False,
    lab: _Lab = False,
    ca: _Authority = None,
    connect_to: _ConnectTo = None,
) -> None:
    """The doctor on a schedule, with /metrics on ORDERLOOP_HTTP_PORT."""
    wishes = clinic.Wishes(url, lab, ca, connect_to, echo)
    command.main(app.SERVICE, lambda: clinic.watch(wishes, seconds=every))


@main.command("allow-list")
def _allow_list(
    firewall: Annotated[str, typer.Argument(help=", ".join(allow_list.FIREWALLS))],
    path: Annotated[str, typer.Option(help="the notify URL's path")] = "/v1/order/callback/wechat",
) -> None:
    """What to tell a firewall so that callbacks pass."""
    if firewall not in allow_list.FIREWALLS:
        raise typer.BadParameter(f"one of {', '.join(allow_list.FIREWALLS)}")
    typer.echo(allow_list.snippet(firewall, path))


def _tell(judge: Callable[[], verify.Judgement], as_json: bool) -> None:
    try:
        judgement = judge()
    except (Permanent, OSError) as error:
        typer.echo(f"{app.SERVICE}: {error}", err=True)
        raise typer.Exit(2) from None
    if as_json:
        typer.echo(orjson.dumps(judgement.as_json()).decode())
    else:
        _show(Console(), judgement)
    raise typer.Exit(0 if judgement.authentic else 1)


def _show(console: Console, judgement: verify.Judgement) -> None:
    console.print("[bold green]authentic[/]" if judgement.authentic else f"[bold red]refused[/] {judgement.reason}")
    if judgement.detail:
        console.print(f"  {escape(judgement.detail)}")
    for name, value in judgement.facts.items():
        console.print(f"  [dim]{name}[/] {escape(value)}", highlight=False)
    if judgement.remark:
        console.print(f"  {escape(judgement.remark)}", highlight=False)
    if judgement.content is not None:
        console.print_json(data=judgement.content)


if __name__ == "__main__":
    main()
