"""The yardstick for payment-callback: what one would write first, and well. FastAPI, and a commit for every notice.

The same verifier, the same statements, uvloop, httptools, a pool of ten. It has no metrics, no log, no traces and no
limits, and it does not wake the relay: a notification with every commit would cost it more than half of its speed.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiosql
import uvicorn
from fastapi import FastAPI, Request, Response

from orderloop import outbox, postgres
from orderloop.settings import HttpSettings, PostgresSettings
from payment_callback import accounts, store
from payment_callback.attempt import Attempt, Verdict
from payment_callback.channels import Notice, Refused
from payment_callback.settings import WechatSettings
from payment_callback.store import Remembered
from tests.support.payment_callback import CALLBACK

POOL = 10

_outbox: Any = aiosql.from_path(Path(outbox.__file__).with_suffix(".sql"), "asyncpg")


def build() -> FastAPI:
    channel = accounts.wechat_channel(WechatSettings())  # pyright: ignore[reportCallIssue]

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        settings = PostgresSettings(pool_size=POOL)  # pyright: ignore[reportCallIssue]
        async with postgres.pool(settings, application_name="reference") as app.state.pool:
            yield

    app = FastAPI(lifespan=lifespan)

    @app.get("/readyz")
    async def ready() -> None:  # pyright: ignore[reportUnusedFunction]
        await app.state.pool.fetchval("select 1")

    @app.post(CALLBACK)
    async def callback(request: Request) -> Response:  # pyright: ignore[reportUnusedFunction]
        body = await request.body()
        headers = dict(request.headers)
        try:
            channel.verify(headers, body, datetime.now(UTC))
            notice = channel.translate(body)
        except Refused:
            return Response(status_code=401)
        kept = {name: value for name, value in headers.items() if name in channel.logged_headers}
        address = request.client.host if request.client else None
        attempt = Attempt(
            channel=channel.name, status=204, source_address=address, headers=kept, body=body, notice=notice
        )
        async with app.state.pool.acquire() as conn, conn.transaction():
            await _store(conn, attempt, _facts(notice))
        return Response(status_code=204)

    return app


def _facts(notice: Notice) -> list[Remembered]:
    now = datetime.now(UTC)
    return [
        Remembered(f.event_id, f.event.order_no, f.event.TOPIC, f.occurred_at or now, None, f.body)
        for f in notice.facts
    ]


async def _store(conn: postgres.Connection, attempt: Attempt, facts: list[Remembered]) -> None:
    new = await store.remember(conn, facts)
    fresh = [fact for fact in facts if fact.event_id in new]
    if fresh:
        await _outbox.stage(
            conn,
            order_nos=postgres.column([fact.order_no for fact in fresh]),
            topics=postgres.column([fact.topic for fact in fresh]),
            event_ids=postgres.column([fact.event_id for fact in fresh]),
            occurred_ats=[fact.occurred_at for fact in fresh],
            traceparents=postgres.column([fact.traceparent for fact in fresh]),
            bodies=[fact.body for fact in fresh],
            records=[None] * len(fresh),
        )
    await store.log(conn, [(attempt, Verdict.ACCEPTED if fresh else Verdict.DUPLICATE)])


if __name__ == "__main__":
    uvicorn.run(
        build(),
        host="127.0.0.1",
        port=HttpSettings().port,  # pyright: ignore[reportCallIssue]
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
        server_header=False,
        timeout_keep_alive=75,
    )
