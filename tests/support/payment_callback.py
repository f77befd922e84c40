"""payment-callback as a process of its own, as tests hold it."""

import asyncio
import os
import signal
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from orderloop_lab.home import free_port
from orderloop_lab.simulators.wechat_keys import Keys
from tests.support.databases import Database
from tests.support.programs import Program
from tests.support.wechat import Sent

CALLBACK = "/v1/order/callback/wechat"
NOBODY_LISTENS = "127.0.0.1:1"


class Process:
    """`async with Process(db, keys) as service`: ready, and killed afterwards. Kafka is away unless it is given."""

    def __init__(self, db: Database, keys: Keys, *, output: Path | None = None, **environ: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.http = httpx.AsyncClient(
            base_url=self.url, timeout=10, trust_env=False, headers={"Authorization": "Bearer operator"}
        )
        self._environ = {
            "ORDERLOOP_POSTGRES_URL": db.app_url,
            "ORDERLOOP_KAFKA_BOOTSTRAP": NOBODY_LISTENS,
            "ORDERLOOP_HTTP_PORT": str(self.port),
            "ORDERLOOP_HTTP_OPERATOR_TOKEN": "operator",
            "ORDERLOOP_LOG_LEVEL": "WARNING",
            **keys.settings(),
            "ORDERLOOP_WECHAT_API_BASE_URL": f"http://{NOBODY_LISTENS}",
            **environ,
        }
        self._output = output
        self._process: Program | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.kill()
        await self.http.aclose()

    async def start(self, **environ: str) -> None:
        self._process = Program(
            "payment_callback", "serve", env=os.environ | self._environ | environ, output=self._output
        )
        async with asyncio.timeout(30):
            while True:
                try:
                    if (await self.http.get("/readyz")).is_success:
                        return
                except httpx.TransportError:
                    if self._process.poll() is not None:
                        raise RuntimeError(f"payment-callback ended with {self._process.returncode}") from None
                await asyncio.sleep(0.05)  # between two looks at whether it is ready

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    async def killed_by_itself(self) -> bool:
        """Waits for the end that a failpoint brought about; whether it was SIGKILL."""
        assert self._process is not None
        return await asyncio.to_thread(self._process.wait, 10) == -signal.SIGKILL

    async def stop(self) -> int:
        """SIGTERM; the exit status."""
        assert self._process is not None
        self._process.terminate()
        return await asyncio.to_thread(self._process.wait, 20)

    async def post(self, sent: Sent) -> int | None:
        """The status of the answer, or None if there was none."""
        try:
            return (await self.http.post(CALLBACK, content=sent.body, headers=sent.headers)).status_code
        except httpx.TransportError:
            return None
