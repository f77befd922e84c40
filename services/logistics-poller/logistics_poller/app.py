"""The composition root: reads the settings, names the concrete classes, and runs them."""

import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import asyncpg
import httpx

from orderloop import command, health, postgres, serve
from orderloop.clock import SystemClock
from orderloop.consume import Consumer
from orderloop.http import create_app
from orderloop.settings import HttpSettings, KafkaSettings, OutboxSettings, PostgresSettings, RedisSettings

from . import consumers, snapshots
from .couriers.breaker import Breaker
from .couriers.courier import Courier
from .couriers.inquire import Couriers
from .couriers.kuaidi100 import Kuaidi100
from .couriers.zto import Zto
from .http import routes
from .poll import Poller
from .settings import Kuaidi100Settings, LogisticsSettings, WmsSettings, ZtoSettings
from .waybills import Labelling
from .wms import Warehouse

SERVICE = "logistics-poller"

_COURIER_SECONDS = 5.0  # a courier that is slower is asked again later
_WAREHOUSE_SECONDS = 10.0
_BREAKER_REST_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Outside:
    """The foreign systems, as this process speaks with them."""

    warehouse: Warehouse
    couriers: Couriers
    snapshots: snapshots.Snapshots


async def run() -> None:
    """Serve until told to stop. Starts without Kafka and Redis; is ready with the database and Kafka."""
    settings = LogisticsSettings()  # pyright: ignore[reportCallIssue]  # from the environment, here and below
    async with (
        postgres.pool(PostgresSettings(), application_name=SERVICE) as pool,  # pyright: ignore[reportCallIssue]
        _outside(settings) as outside,
    ):
        state = health.Health()
        state.require("postgres", health.postgres(pool))
        tasks = _tasks(pool, outside, settings, state)
        if OutboxSettings().relay == "embedded":  # pyright: ignore[reportCallIssue]
            tasks["relay"] = command.relay(SERVICE).run
        app = create_app(SERVICE, title="OrderLoop logistics-poller", description=__doc__ or "", health=state)
        routes(app, pool, outside.snapshots)
        await serve.serve(app, HttpSettings(), tasks=tasks)  # pyright: ignore[reportCallIssue]


def _tasks(
    pool: asyncpg.Pool, outside: Outside, settings: LogisticsSettings, state: health.Health
) -> dict[str, serve.Task]:
    plans, clock = settings.plans(), SystemClock()
    labelling = Labelling(
        pool,
        outside.warehouse,
        clock=clock,
        plans=plans,
        time_factor=settings.time_factor,
        at_once=settings.at_once,
    )
    poller = Poller(pool, outside.couriers, outside.snapshots, clock=clock, plans=plans, at_once=settings.at_once)
    consumer = Consumer(
        KafkaSettings(),  # pyright: ignore[reportCallIssue]
        group=consumers.GROUP,
        topics=consumers.TOPICS,
        handle=consumers.handler(pool, plans=plans, clock=clock),
        pool=pool,
        health=state,
    )
    return {
        "consumer": consumer.run,
        "labels": serve.periodic("labels", labelling.run_due, seconds=settings.idle_seconds),
        "polls": serve.periodic("polls", poller.run_due, seconds=settings.idle_seconds),
    }


@asynccontextmanager
async def _outside(settings: LogisticsSettings) -> AsyncGenerator[Outside]:
    redis_url = RedisSettings().url.get_secret_value()  # pyright: ignore[reportCallIssue]
    async with (
        snapshots.connect(redis_url) as redis,
        httpx.AsyncClient(timeout=_WAREHOUSE_SECONDS, trust_env=False) as to_warehouse,
        httpx.AsyncClient(timeout=_COURIER_SECONDS, trust_env=False) as to_couriers,
    ):
        warehouse = Warehouse(to_warehouse, base_url=WmsSettings().base_url)  # pyright: ignore[reportCallIssue]
        yield Outside(warehouse, _couriers(to_couriers, settings), snapshots.Snapshots(redis))


def _couriers(client: httpx.AsyncClient, settings: LogisticsSettings) -> Couriers:
    kuaidi100 = Kuaidi100Settings()  # pyright: ignore[reportCallIssue]
    zto = ZtoSettings()  # pyright: ignore[reportCallIssue]
    aggregator = Kuaidi100(
        client,
        base_url=kuaidi100.base_url,
        recognition_url=kuaidi100.recognition_base_url,
        customer=kuaidi100.customer,
        key=kuaidi100.key.get_secret_value(),
    )
    direct: dict[str, Courier] = {}
    if zto.app_key and zto.app_secret:
        secret = zto.app_secret.get_secret_value()
        direct["zto"] = Zto(client, base_url=zto.base_url, app_key=zto.app_key, app_secret=secret)
    return Couriers(aggregator, direct, Breaker(time.monotonic, rest=_BREAKER_REST_SECONDS / settings.time_factor))
