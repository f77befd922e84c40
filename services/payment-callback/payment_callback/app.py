"""The composition root: reads the settings, names the concrete classes, and runs them."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path

import asyncpg

from orderloop import auth, command, health, http, postgres, serve
from orderloop.clock import Clock, SystemClock
from orderloop.connection import Patience
from orderloop.errors import Permanent
from orderloop.settings import HttpSettings, OutboxSettings, PostgresSettings

from . import address, retention, store
from .budget import Budget
from .channels import Channel, wechat
from .http import Gate, router
from .receive import Reception
from .settings import CallbackSettings, WechatSettings
from .writer import Writer

SERVICE = "payment-callback"

_DESCRIPTION = (
    "Takes the payment channels' notifications. The notify URLs, `POST /v1/order/callback/{channel}`, speak the "
    "channels' own protocols and stand beside this application; what they were sent is searched here."
)

_LOG_DAYS_AHEAD = 7  # looked after hourly and at every start; until there is a day for it, a notice is answered 503


# A channel sends a notice in one go, from machines next door to ours; who takes longer is no channel.
_PATIENCE = Patience(headers=10, body=10)


def build(
    pool: asyncpg.Pool,
    *,
    channels: Iterable[Channel],
    settings: CallbackSettings,
    clock: Clock,
    http_settings: HttpSettings,
) -> Gate:
    """The HTTP application. A further channel is one more module and one more element of `channels`."""
    state = health.Health()
    state.require("postgres", health.postgres(pool))
    app = http.create_app(SERVICE, title="OrderLoop payment-callback", description=_DESCRIPTION, health=state)
    writer = Writer(pool)
    budget = Budget(
        rows=settings.refused_rows_per_hour,
        bytes=settings.refused_bytes_per_hour,
        rows_per_address=settings.refused_rows_per_address,
    )
    app.include_router(router(pool, auth.operator(http_settings.operator_token)))
    receptions = [Reception(channel, writer=writer, clock=clock, budget=budget) for channel in channels]
    return Gate(app, receptions, proxies=_proxies(http_settings.trusted_proxies))


async def run() -> None:
    """Serve until told to stop. Needs the database; Kafka may be away."""
    channels = [wechat_channel(WechatSettings())]  # pyright: ignore[reportCallIssue]
    outbox = OutboxSettings()  # pyright: ignore[reportCallIssue]
    async with postgres.pool(PostgresSettings(), application_name=SERVICE) as pool:  # pyright: ignore[reportCallIssue]

        async def ensure_days() -> None:
            async with pool.acquire() as conn:
                await store.ensure_days(conn, _LOG_DAYS_AHEAD)

        settings = CallbackSettings()  # pyright: ignore[reportCallIssue]
        keep = retention.Retention(timedelta(hours=settings.log_hours), timedelta(days=settings.memory_days))
        tasks = {
            "log days": serve.periodic("log days", ensure_days, seconds=3600),
            "retention": serve.periodic("retention", lambda: keep.enforce(pool), seconds=600),
        }
        if outbox.relay == "embedded":
            tasks["relay"] = command.relay(SERVICE).run
        http_settings = HttpSettings()  # pyright: ignore[reportCallIssue]
        app = build(pool, channels=channels, settings=settings, clock=SystemClock(), http_settings=http_settings)
        await serve.serve(app, http_settings, tasks=tasks, patience=_PATIENCE)


async def republish(*, since: datetime, until: datetime) -> int:
    """See retention.republish."""
    async with postgres.pool(PostgresSettings(), application_name=SERVICE) as pool:  # pyright: ignore[reportCallIssue]
        return await retention.republish(pool, since=since, until=until)


def wechat_channel(settings: WechatSettings) -> wechat.WeChat:
    """WeChat Pay with the keys that are configured. Raises Permanent when they cannot be used."""
    keys = dict[str, wechat.VerifyingKey]()
    if (settings.public_key_id is None) != (settings.public_key_file is None):
        raise Permanent("ORDERLOOP_WECHAT_PUBLIC_KEY_ID and ORDERLOOP_WECHAT_PUBLIC_KEY_FILE belong together")
    if settings.public_key_id is not None and settings.public_key_file is not None:
        keys |= wechat.public_key(settings.public_key_id, settings.public_key_file.read_bytes())
    if settings.certificate_dir is not None:
        keys |= wechat.certificates(_pems(settings.certificate_dir))
    return wechat.WeChat(
        mchid=settings.mchid,
        appids=[appid.strip() for appid in settings.appid.split(",")],
        apiv3_key=settings.apiv3_key.get_secret_value().encode(),
        keys=keys,
    )


def _proxies(text: str) -> tuple[address.Network, ...]:
    try:
        return address.networks(text)
    except ValueError as error:
        raise Permanent(f"ORDERLOOP_HTTP_TRUSTED_PROXIES: {error}") from None


def _pems(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.glob("*.pem"))]
