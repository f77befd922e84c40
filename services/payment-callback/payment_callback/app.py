"""The composition root: reads the settings, names the concrete classes, and runs them."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from functools import partial

import asyncpg
import httpx

from orderloop import auth, command, health, http, postgres, serve
from orderloop.clock import Clock, SystemClock
from orderloop.connection import Patience
from orderloop.errors import Permanent
from orderloop.settings import HttpSettings, OutboxSettings, PostgresSettings

from . import address, credential, retention, store
from .accounts import REGISTERED, open_accounts
from .budget import Budget
from .certificates import LOOK_SECONDS, Certificates
from .channels import Channel
from .channels.wechat import WeChat
from .http import Gate, describe, router
from .pages import routes as pages
from .receive import Doctor, Reception
from .settings import CallbackSettings, EvidenceSettings, WechatSettings
from .speaking import speaking
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
    state: health.Health | None = None,
    doctor_key: bytes | None = None,
    certificates: Certificates | None = None,
) -> Gate:
    """The HTTP application. A further channel is one more module and one more line in `accounts`."""
    state = health.Health() if state is None else state
    state.require("postgres", health.postgres(pool))
    app = http.create_app(SERVICE, title="OrderLoop payment-callback", description=_DESCRIPTION, health=state)
    writer = Writer(pool)
    budget = Budget(
        rows=settings.refused_rows_per_hour,
        bytes=settings.refused_bytes_per_hour,
        rows_per_address=settings.refused_rows_per_address,
    )
    channels = list(channels)
    operator = auth.operator(http_settings.operator_token)
    app.include_router(router(pool, operator))
    app.include_router(pages.router(pool, channels, operator, hours=settings.log_hours))
    describe(app, channels)
    receptions = [
        Reception(
            channel,
            writer=writer,
            clock=clock,
            budget=budget,
            doctor=_doctor(channel, doctor_key, clock),
            on_unknown_serial=certificates.wanted if certificates else None,
        )
        for channel in channels
    ]
    return Gate(app, receptions, proxies=_proxies(http_settings.trusted_proxies))


async def run() -> None:
    """Serve until told to stop. Needs the database; Kafka may be away."""
    outbox, evidence = OutboxSettings(), EvidenceSettings()  # pyright: ignore[reportCallIssue]
    async with (
        postgres.pool(PostgresSettings(), application_name=SERVICE) as pool,  # pyright: ignore[reportCallIssue]
        # The environment's proxies are not asked: nobody but the channel sees these calls.
        httpx.AsyncClient(follow_redirects=False, trust_env=False) as client,
    ):
        state, clock = health.Health(), SystemClock()
        accounts = open_accounts(REGISTERED, client, clock)
        gateways = [account.gateway for account in accounts if account.gateway is not None]

        async def ensure_days() -> None:
            async with pool.acquire() as conn:
                await store.ensure_days(conn, _LOG_DAYS_AHEAD)

        settings = CallbackSettings()  # pyright: ignore[reportCallIssue]
        keep = retention.Retention(
            log=timedelta(hours=settings.log_hours),
            memory=timedelta(days=settings.memory_days),
            errands=timedelta(days=settings.errand_days),
        )
        tasks: dict[str, serve.Task] = {
            "log days": serve.periodic("log days", ensure_days, seconds=3600),
            "retention": serve.periodic("retention", lambda: keep.enforce(pool), seconds=600),
        }
        certificates = next((account.certificates for account in accounts if account.certificates), None)
        if certificates is not None:
            tasks["certificates"] = serve.periodic(
                "certificates", partial(certificates.look, pool), seconds=LOOK_SECONDS
            )
            state.require("wechat keys", certificates.known)
        tasks |= speaking(pool, gateways, settings=evidence, health=state, clock=clock)
        if outbox.relay == "embedded":
            tasks["relay"] = command.relay(SERVICE).run
        http_settings = HttpSettings()  # pyright: ignore[reportCallIssue]
        app = build(
            pool,
            channels=[account.channel for account in accounts],
            settings=settings,
            clock=clock,
            http_settings=http_settings,
            state=state,
            doctor_key=doctor_key(settings, WechatSettings()),  # pyright: ignore[reportCallIssue]
            certificates=certificates,
        )
        await serve.serve(app, http_settings, tasks=tasks, patience=_PATIENCE)


async def republish(*, since: datetime, until: datetime) -> int:
    """See retention.republish."""
    async with postgres.pool(PostgresSettings(), application_name=SERVICE) as pool:  # pyright: ignore[reportCallIssue]
        return await retention.republish(pool, since=since, until=until)


def doctor_key(settings: CallbackSettings, merchant: WechatSettings) -> bytes:
    """What the service and the `doctor` command recognise each other by."""
    secret = settings.doctor_key or merchant.apiv3_key
    return credential.doctor_key(secret.get_secret_value().encode())


def _doctor(channel: Channel, key: bytes | None, clock: Clock) -> Doctor | None:
    if key is None:
        return None
    return Doctor(key, clock, lambda: channel.fingerprints if isinstance(channel, WeChat) else {})


def _proxies(text: str) -> tuple[address.Network, ...]:
    try:
        return address.networks(text)
    except ValueError as error:
        raise Permanent(f"ORDERLOOP_HTTP_TRUSTED_PROXIES: {error}") from None
