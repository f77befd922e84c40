"""The doctor on a schedule: what it finds, as metrics to alert on."""

import time
from collections.abc import Awaitable, Callable

import structlog
from prometheus_client import Counter, Gauge, Histogram

from .examine import Diagnosis
from .verdict import Verdict

log = structlog.get_logger()

HEALTHY = Gauge("orderloop_notify_url_healthy", "1 while our service proves that probes reach it", ["channel"])
FOUND = Gauge("orderloop_notify_url_verdict", "1 for what the last examination found", ["channel", "verdict"])
EXAMINED = Counter("orderloop_notify_url_examinations_total", "Examinations by what they found", ["channel", "verdict"])
SECONDS = Histogram(
    "orderloop_notify_url_probe_seconds",
    "The first probe's round trip",
    ["channel"],
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2, 5),
)
AT = Gauge("orderloop_notify_url_examined_timestamp_seconds", "When the last examination ended", ["channel"])
CERTIFICATE_ENDS = Gauge("orderloop_notify_url_certificate_ends_timestamp_seconds", "notAfter", ["channel"])


def canary(channel: str, examination: Callable[[], Awaitable[Diagnosis]]) -> Callable[[], Awaitable[None]]:
    """A job that examines once and publishes what it found."""

    async def run() -> None:
        diagnosis = await examination()
        publish(channel, diagnosis)
        say = log.info if diagnosis.healthy else log.error
        say("notify URL examined", channel=channel, verdict=diagnosis.verdict, detail=diagnosis.detail)

    return run


def publish(channel: str, diagnosis: Diagnosis) -> None:
    HEALTHY.labels(channel).set(diagnosis.healthy)
    for verdict in Verdict:
        FOUND.labels(channel, verdict).set(verdict is diagnosis.verdict)
    EXAMINED.labels(channel, diagnosis.verdict).inc()
    AT.labels(channel).set(time.time())
    if diagnosis.steps:
        SECONDS.labels(channel).observe(diagnosis.steps[0].milliseconds / 1000)
    if diagnosis.certificate_ends is not None:
        CERTIFICATE_ENDS.labels(channel).set(diagnosis.certificate_ends.timestamp())
