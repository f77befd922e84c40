"""WeChat Pay's platform certificates, kept up to date: downloaded on a schedule, shared by all replicas.

No notice ever causes a download of its own. One that names a key we do not know can bring the next download forward,
which strangers can do too: so not by much, and not often.
"""

import random
from datetime import datetime, timedelta

import asyncpg
import structlog

from orderloop.clock import Clock
from orderloop.errors import Transient

from . import metrics, store
from .channels.wechat import NAME, WeChat
from .channels.wechat_keys import certificates
from .gateways import GatewayRefuses, GatewaySilent
from .gateways.wechat import WeChatGateway
from .pace import download_wait

log = structlog.get_logger()

# How soon a replica knows what another has downloaded. A new certificate is there days before it is used.
LOOK_SECONDS = 30
# Whoever sends us unknown serials makes us ask the channel this often and no oftener.
_SOONEST = timedelta(minutes=10)


class Certificates:
    def __init__(self, channel: WeChat, gateway: WeChatGateway | None, *, every: timedelta, clock: Clock) -> None:
        """Without `gateway` only the configured certificates count; their ends are watched all the same."""
        self._channel = channel
        self._gateway = gateway
        self._every = every
        self._clock = clock
        self._failures = 0
        self._tried_at: datetime | None = None
        self._next_at: datetime | None = None  # None: at once

    def wanted(self) -> None:
        """A notice came under a serial that is not known."""
        if self._tried_at is not None and self._next_at is not None:
            self._next_at = min(self._next_at, self._tried_at + _SOONEST)

    async def look(self, pool: asyncpg.Pool) -> None:
        """Learn, and download when it is time."""
        await self.learn(pool)
        if self._gateway is not None:
            now = self._clock.now()
            if self._next_at is None or now >= self._next_at:
                self._tried_at = now
                await self._download(pool, self._gateway)
        metrics.CERTIFICATE_ENDS.clear()
        for serial, key in self._channel.keys.items():
            if key.not_after is not None:
                metrics.CERTIFICATE_ENDS.labels(NAME, serial).set(key.not_after.timestamp())

    async def learn(self, pool: asyncpg.Pool) -> None:
        """What any replica has downloaded; with the public key alone, what once was downloaded counts no more."""
        if self._gateway is None:
            return
        async with pool.acquire() as conn:
            pems, downloaded_at = await store.certificates(conn)
        self._channel.trust(certificates(pems))
        metrics.CERTIFICATES_DOWNLOADED.labels(NAME).set(downloaded_at.timestamp() if downloaded_at else 0)

    async def known(self) -> None:
        """Raises Transient as long as there is no key at all: a replica that can verify nothing is not ready.

        Keys that have ended are the alerts' business; other channels' notices are taken all the same.
        """
        if not self._channel.keys:
            raise Transient("no key of the channel is known yet")

    async def _download(self, pool: asyncpg.Pool, gateway: WeChatGateway) -> None:
        try:
            pems = await gateway.certificates()
        except (GatewaySilent, GatewayRefuses) as error:
            self._failures += 1
            metrics.DOWNLOADS.labels(NAME, "failed").inc()
            log.warning("platform certificates not downloaded", because=str(error), failures=self._failures)
        else:
            self._failures = 0
            metrics.DOWNLOADS.labels(NAME, "done").inc()
            async with pool.acquire() as conn:
                await store.keep_certificates(conn, pems)
            await self.learn(pool)
        wait = download_wait(self._failures, every=self._every, chance=random.random())  # spreads load
        self._next_at = self._clock.now() + wait
