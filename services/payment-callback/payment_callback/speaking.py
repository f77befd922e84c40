"""The tasks that ask the channels, put together."""

from collections.abc import Sequence
from datetime import timedelta

import asyncpg

from orderloop import serve
from orderloop.clock import Clock
from orderloop.health import Health
from orderloop.settings import KafkaSettings

from . import errand_store, metrics
from .consumers import consumer
from .errand_store import Kind
from .errands import Speaker
from .evidence import Lookout, Policy, Rule
from .gateways import Gateway
from .pace import Allowance, plan
from .rounds import Rounds
from .settings import EvidenceSettings

_AT_ONCE = 16  # calls of one kind; the channels allow hundreds in a second
_COUNT_SECONDS = 15  # as often as Prometheus usually asks


def speaking(
    pool: asyncpg.Pool, gateways: Sequence[Gateway], *, settings: EvidenceSettings, health: Health, clock: Clock
) -> dict[str, serve.Task]:
    """Hear what order-core wants, do it, look for missing callbacks, and count."""
    rule = Rule(Policy(settings.policy), timedelta(seconds=settings.grace_seconds))
    looks = plan(
        first_minutes=settings.first_minutes, then_minutes=settings.then_minutes, time_factor=settings.time_factor
    )
    speaker = Speaker(pool, gateways, rule=rule, clock=clock, time_factor=settings.time_factor)
    lookout = Lookout(
        pool,
        gateways,
        plan=looks,
        rule=rule,
        allowance=Allowance(settings.queries_per_second),
        clock=clock,
        time_factor=settings.time_factor,
    )
    errands = Rounds("errands", claim=speaker.claim, do=speaker.make, at_once=_AT_ONCE, health=health)
    lookouts = Rounds("lookout", claim=lookout.claim, do=lookout.look, at_once=_AT_ONCE, health=health)

    async def count() -> None:
        async with pool.acquire() as conn:
            found = await errand_store.open_errands(conn)
            missing = await errand_store.count_missing(conn)
        for kind in Kind:
            number, oldest_seconds = found.get(kind, (0, 0.0))
            metrics.ERRANDS.labels(kind).set(number)
            metrics.OLDEST_ERRAND.labels(kind).set(oldest_seconds)
        for row in missing:
            metrics.MISSING.labels(row["channel"], row["policy"]).set(row["callbacks"])

    kafka = KafkaSettings()  # pyright: ignore[reportCallIssue]
    hearing = consumer(kafka, pool=pool, plan=looks, clock=clock, wake=errands.wake, health=health)
    return {
        "consumer": hearing.run,
        "errands": errands.run,
        "lookout": lookouts.run,
        "count": serve.periodic("count", count, seconds=_COUNT_SECONDS),
    }
