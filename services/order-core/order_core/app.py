"""order-core's composition root: the only place that reads settings and names concrete classes."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from functools import partial

import httpx
import orjson
import structlog
from redis.asyncio import Redis

from orderloop import health as checks
from orderloop import postgres
from orderloop.clock import SystemClock
from orderloop.command import relay
from orderloop.consume import Consumer
from orderloop.errors import Permanent
from orderloop.health import Health
from orderloop.serve import Task, periodic, serve
from orderloop.settings import PostgresSettings

from . import consumers, holds, http, metrics, timeouts
from .dead_letters import Gatherer
from .explain import explain
from .republish import republish
from .retention import Keep, Line, enforce
from .settings import HoldsSettings, OrderCoreSettings, RetentionSettings
from .timeline import timeline
from .words import Language

log = structlog.get_logger()

_HOLDS_SECONDS = 60  # against three days that a callback is kept anyway
_RETENTION_SECONDS = 24 * 3600


async def explained(order_no: str, language: Language, *, as_json: bool = False) -> str | None:
    """An order's story, in sentences or as its timeline; None if nobody knows the order."""
    settings = PostgresSettings()  # type: ignore[call-arg]
    async with (
        postgres.pool(settings, application_name="order-core explain") as pool,
        pool.acquire() as conn,
    ):
        story = await timeline(conn, order_no)
    if story is None:
        return None
    if as_json:
        return orjson.dumps(dict(story), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE).decode()
    return explain(story, now=SystemClock().now(), language=language)


async def republished(since: datetime) -> int:
    """How many events were staged again."""
    settings = PostgresSettings()  # type: ignore[call-arg]
    async with postgres.pool(settings, application_name="order-core republish") as pool:
        return await republish(pool, since=since)


async def retained(*, dry_run: bool) -> list[Line] | None:
    """What has been removed because it was old, or would be; None if another run is at it."""
    owner_url = PostgresSettings().owner_url  # type: ignore[call-arg]
    if owner_url is None:
        raise Permanent("ORDERLOOP_POSTGRES_OWNER_URL is not set; only the tables' owner may remove anything")
    keep = RetentionSettings().keep  # type: ignore[call-arg]
    return await _retain(owner_url.get_secret_value(), keep, dry_run=dry_run)


async def _retain(owner_url: str, keep: Keep, *, dry_run: bool = False) -> list[Line] | None:
    conn = await postgres.connect(owner_url, application_name="order-core retention")
    try:
        return await enforce(conn, keep, now=SystemClock().now(), dry_run=dry_run)
    finally:
        await conn.close()


@asynccontextmanager
async def _payment_callback(settings: HoldsSettings) -> AsyncGenerator[httpx.AsyncClient | None]:
    """Who holds callbacks for the desk; None, and said so, if nobody is named."""
    metrics.CALLBACK_HOLDS_OFF.set(settings.base_url is None)
    if settings.base_url is None or settings.token is None:
        log.warning("callbacks that open anomalies cite will expire: ORDERLOOP_HOLDS_BASE_URL is not set")
        yield None
        return
    headers = {"Authorization": f"Bearer {settings.token.get_secret_value()}"}
    # The environment's proxies are not asked: the token goes to payment-callback and nowhere else.
    async with httpx.AsyncClient(base_url=settings.base_url, headers=headers, timeout=10, trust_env=False) as client:
        yield client


async def run() -> None:
    settings = OrderCoreSettings()
    clock, health = SystemClock(), Health()
    async with AsyncExitStack() as stack:
        pool = await stack.enter_async_context(postgres.pool(settings.postgres, application_name="order-core"))
        redis = await stack.enter_async_context(
            Redis.from_url(settings.redis.url.get_secret_value(), socket_timeout=1, socket_connect_timeout=1)
        )
        health.require("postgres", checks.postgres(pool))
        consumer = Consumer(
            settings.kafka,
            group="order-core",
            topics=consumers.TOPICS,
            handle=consumers.handler(pool, clock, settings.order.patience),
            pool=pool,
            health=health,
        )
        tasks: dict[str, Task] = {
            "consumer": consumer.run,
            "dead letters": Gatherer(settings.kafka, pool).run,
            "waiting": periodic(
                "waiting",
                lambda: timeouts.give_up_waiting(pool, longest=settings.order.longest_wait),
                seconds=30,
            ),
            "timers": periodic(
                "timers",
                lambda: timeouts.fire(pool, clock, settings.order.patience),
                seconds=min(5, settings.order.patience.unpaid.total_seconds() / 10),
            ),
            "months": periodic("months", lambda: timeouts.prepare_months(pool, clock), seconds=24 * 3600),
        }
        if settings.outbox.relay == "embedded":
            tasks["relay"] = relay("order-core").run
        if (owner_url := settings.postgres.owner_url) is not None:
            retain = partial(_retain, owner_url.get_secret_value(), settings.retention.keep)
            tasks["retention"] = periodic("retention", retain, seconds=_RETENTION_SECONDS)
        if (payment_callback := await stack.enter_async_context(_payment_callback(settings.holds))) is not None:
            tasks["holds"] = periodic(
                "holds", lambda: holds.keep_in_line(pool, payment_callback), seconds=_HOLDS_SECONDS
            )
        app = http.create(pool=pool, redis=redis, clock=clock, health=health, settings=settings.order)
        await serve(app, settings.http, tasks=tasks)
