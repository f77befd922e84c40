"""The composition root: reads the settings, names the concrete classes, runs the parts."""

import httpx

from orderloop import health as parts
from orderloop import postgres, serve
from orderloop.clock import SystemClock
from orderloop.command import relay
from orderloop.health import Health
from orderloop.http import create_app
from orderloop.settings import HttpSettings, KafkaSettings, OutboxSettings, PostgresSettings

from . import http, metrics, store
from .banks.generic import GenericBank
from .consumers import consumer
from .instruct import Instructor
from .settings import BankSettings, SettlementSettings
from .states import Status

SERVICE = "settlement"

_COUNT_SECONDS = 15  # as often as Prometheus usually asks


async def run() -> None:
    bank_settings, rule = BankSettings(), SettlementSettings().rule()  # type: ignore[call-arg]
    health, clock = Health(), SystemClock()
    async with (
        postgres.pool(PostgresSettings(), application_name=SERVICE) as pool,  # type: ignore[call-arg]
        # The environment's proxies are not asked: nobody but the bank sees these calls.
        httpx.AsyncClient(base_url=bank_settings.base_url, follow_redirects=False, trust_env=False) as client,
    ):
        bank = GenericBank(
            client,
            secret=bank_settings.secret.get_secret_value().encode(),
            timeout_seconds=bank_settings.timeout_seconds,
            clock=clock,
        )
        instructor = Instructor(
            pool, bank, accounts=rule.accounts, clock=clock, pace=bank_settings.pace(), health=health
        )
        app = create_app(SERVICE, title="OrderLoop settlement", description=http.__doc__ or "", health=health)
        app.include_router(http.routes(pool))
        health.require("postgres", parts.postgres(pool))

        async def count_open() -> None:
            async with pool.acquire() as conn:
                found = await store.open_settlements(conn)
            for status in (Status.REQUESTED, Status.SENDING, Status.PROCESSING, Status.RETRYING):
                settlements, oldest_seconds = found.get(status, (0, 0.0))
                metrics.OPEN.labels(status).set(settlements)
                metrics.OLDEST.labels(status).set(oldest_seconds)

        tasks: dict[str, serve.Task] = {
            "consumer": consumer(
                KafkaSettings(),  # type: ignore[call-arg]
                pool=pool,
                rule=rule,
                wake=instructor.wake,
                health=health,
            ).run,
            "instructor": instructor.run,
            "count": serve.periodic("count", count_open, seconds=_COUNT_SECONDS),
        }
        if OutboxSettings().relay == "embedded":  # type: ignore[call-arg]
            tasks["relay"] = relay(SERVICE).run
        await serve.serve(app, HttpSettings(), tasks=tasks)  # type: ignore[call-arg]
