"""Who asks, and under which key: what every state-changing route needs to know of its request."""

from typing import Annotated, Any

import asyncpg
import structlog
from fastapi import FastAPI, Header, Path, Request, Response
from pydantic import Field

from orderloop import tracing
from orderloop.errors import is_transient, reason
from orderloop.ids import ORDER_NO_PATTERN
from orderloop.problem import Problem

from . import answers, commands

log = structlog.get_logger()

OrderNo = Annotated[str, Path(pattern=ORDER_NO_PATTERN, description="as given by POST /v1/orders")]
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=8,
        max_length=128,
        pattern=r"^[\x21-\x7e]+$",
        description="required; the same key repeats the same answer for 30 days",
    ),
]
Caller = Annotated[str, Header(alias="X-Caller", max_length=64, pattern=r"^[\w.:/-]+$", description="who is asking")]
Text = Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[^\x00]+$")]
Reason = Annotated[str, Field(min_length=1, max_length=80, pattern=r"^[^\x00]+$", description="kept for ever")]


async def order_command(
    request: Request, order_no: OrderNo, key: IdempotencyKey = None, caller: Caller = "anonymous"
) -> commands.Request:
    return await command(request, order_no, key, caller)


async def command(
    request: Request, order_no: str, key: str | None, caller: str, *, about: str = ""
) -> commands.Request:
    """The request as a command about an order. `about` names what else its path is about. Raises Problem 400."""
    tracing.tag_order(order_no)
    route = request.url.path.rsplit("/", 1)[-1]
    body = about.encode() + await request.body()
    request.state.order_no = order_no  # for the access log
    if key is None:
        raise Problem(
            400,
            "idempotency-key-missing",
            "Send an Idempotency-Key header (a UUID, the same one on every retry), so that a retry cannot do it twice.",
        )
    return commands.Request(caller, route, key, order_no, body)


def answered(answer: commands.Answer) -> Response:
    return Response(answer.body, answer.status, media_type="application/json")


def log_access(app: FastAPI, pool: asyncpg.Pool) -> None:
    """Write down every attempt at a change, refused ones included: the patrol counts them by order."""

    @app.middleware("http")
    async def _access_log(request: Request, call_next: Any) -> Response:
        if request.method in {"GET", "HEAD", "OPTIONS"} or not request.url.path.startswith("/v1/"):
            return await call_next(request)
        status = 500
        try:
            response: Response = await call_next(request)
            status = response.status_code
        finally:
            await _log(pool, request, status)
        return response


async def _log(pool: asyncpg.Pool, request: Request, status: int) -> None:
    """By the order that the handler found out, or else what the path names: what was asked may be nonsense."""
    *subject, route = request.url.path.removeprefix("/v1/").replace("\0", "").split("/")
    about = subject[1:] if subject[:1] == ["orders"] else subject or [route]
    key = request.headers.get("idempotency-key", "")
    try:
        async with pool.acquire() as conn:
            await answers.log_access(
                conn,
                order_no=getattr(request.state, "order_no", "/".join(about))[:64],
                request_id=request.headers.get("x-request-id", key)[:128],
                route=route[:64],
                caller=request.headers.get("x-caller", "anonymous")[:64],
                status=status,
            )
    except Exception as error:  # what was answered is true all the same
        if not is_transient(error):
            raise
        log.warning("an attempt could not be logged", route=route, status=status, error=reason(error))
