"""The composition root of `doctor` and `canary`: reads the settings, names the concrete classes, and examines."""

from dataclasses import dataclass, replace
from pathlib import Path

import httpx

from orderloop import health, http, postgres, serve
from orderloop.clock import SystemClock
from orderloop.errors import Permanent
from orderloop.settings import HttpSettings, PostgresSettings

from . import accounts
from .app import SERVICE, doctor_key
from .channels.wechat import WeChat
from .doctor.canary import canary
from .doctor.echo import echo
from .doctor.examine import Diagnosis, Patient, examine
from .doctor.verdict import Verdict
from .gateways.wechat import WeChatGateway
from .settings import CallbackSettings, WechatSettings


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the command line says."""

    url: str | None
    lab: bool = False
    authority: Path | None = None
    connect_to: str | None = None
    echo: bool = False


async def diagnose(wishes: Wishes) -> Diagnosis:
    """Examines once. Raises Permanent when there is nothing to examine."""
    settings, merchant = CallbackSettings(), WechatSettings()  # pyright: ignore[reportCallIssue]
    url = wishes.url or settings.notify_url
    if url is None:
        raise Permanent("which notify URL? Give --url or set ORDERLOOP_CALLBACK_NOTIFY_URL")
    channel = accounts.wechat_channel(merchant)
    diagnosis = await examine(
        Patient(
            url=url,
            key=doctor_key(settings, merchant),
            keys={} if "alipay" in url else channel.fingerprints,
            lab=wishes.lab,
            authority=wishes.authority,
            connect_to=wishes.connect_to,
        )
    )
    return await _with_echo(diagnosis) if wishes.echo else diagnosis


async def _with_echo(diagnosis: Diagnosis) -> Diagnosis:
    """The channel's own self-test, under every key that is configured or downloaded; it is the last word."""
    async with (
        postgres.pool(PostgresSettings(), application_name=f"{SERVICE} doctor") as pool,  # pyright: ignore[reportCallIssue]
        httpx.AsyncClient(follow_redirects=False, trust_env=False) as client,
    ):
        account = accounts.wechat(client, SystemClock())
        channel, gateway = account.channel, account.gateway
        if not isinstance(gateway, WeChatGateway) or not isinstance(channel, WeChat):
            raise Permanent("the self-test needs ORDERLOOP_WECHAT_MERCHANT_SERIAL and …_MERCHANT_KEY_FILE")
        if account.certificates is not None:
            await account.certificates.learn(pool)
        steps = await echo(pool, gateway, channel, notify_url=diagnosis.url, serials=channel.fingerprints)
    told = replace(diagnosis, steps=[*diagnosis.steps, *steps])
    failed = [step for step in steps if step.finding.verdict is not Verdict.HEALTHY]
    if not diagnosis.healthy or not failed:
        return told
    return replace(told, verdict=failed[0].finding.verdict, detail=f"{failed[0].what}: {failed[0].finding.detail}")


async def watch(wishes: Wishes, *, seconds: float) -> None:
    """Examines every so many seconds and serves what it found under /metrics, until told to stop."""
    name = "alipay" if "alipay" in (wishes.url or CallbackSettings().notify_url or "") else "wechat"  # pyright: ignore[reportCallIssue]
    job = canary(name, lambda: diagnose(wishes))
    await job()  # a wrong setting ends the start; later runs are repeated whatever happens
    app = http.create_app(f"{SERVICE}", title="Notify URL canary", description="", health=health.Health())
    tasks = {"canary": serve.periodic("canary", job, seconds=seconds)}
    await serve.serve(app, HttpSettings(), tasks=tasks)  # pyright: ignore[reportCallIssue]
