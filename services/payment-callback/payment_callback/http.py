"""What payment-callback answers: the channels' callbacks, and the search of their log."""

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated

import asyncpg
import orjson
import structlog
from fastapi import APIRouter, Depends, FastAPI, Query
from fastapi import Path as PathParameter
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode
from pydantic import AwareDatetime, BaseModel, Field
from starlette.types import ASGIApp, Receive, Scope, Send

from orderloop import auth
from orderloop.failpoints import failpoint

from . import address, metrics, store
from .attempt import Verdict
from .channels import Answer, Channel
from .marks import mark, page
from .receive import LARGEST_BODY, Reception

log = structlog.get_logger()
_tracer = trace.get_tracer("orderloop.payment_callback")

# The channel waits 5 s and then counts the callback as failed; what we say later than this it may not hear.
_DEADLINE_SECONDS = 3.0


class Gate:
    """The whole service: notify URLs go straight to their endpoints, everything else to the application.

    The application's layers cost more than verifying and decrypting a notice does (130 µs against 60), so the hot path
    goes round them.
    """

    def __init__(self, app: ASGIApp, receptions: Iterable[Reception], *, proxies: Sequence[address.Network]) -> None:
        self._app = app
        endpoints = (CallbackEndpoint(reception, proxies=proxies) for reception in receptions)
        self._endpoints = {endpoint.path: endpoint for endpoint in endpoints}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        endpoint = self._endpoints.get(scope.get("path", "")) if scope["type"] == "http" else None
        await (endpoint or self._app)(scope, receive, send)


def describe(app: FastAPI, channels: Iterable[Channel]) -> None:
    """Put the notify URLs into the application's OpenAPI document, beside which they stand."""
    paths = app.openapi()["paths"]
    for channel in channels:
        answers = {
            str(channel.stored().status): "Durably stored; the channel need not repeat it",
            "401": "Refused; the reason is in the log only",
            "405": "Not a POST",
            "413": "Larger than 64 KB",
            "415": "Not the channel's content type",
            "422": "Authentic but not understood yet: the channel shall repeat it",
            "503": "Not stored: the channel shall repeat it",
        }
        paths[f"/v1/order/callback/{channel.name}"] = {
            "post": {
                "tags": ["callbacks"],
                "summary": f"Notify URL for {channel.name}: speaks the channel's own protocol",
                "operationId": f"callback_{channel.name}",
                "requestBody": {"required": True, "content": {channel.media_type: {"schema": {"type": "object"}}}},
                "responses": {status: {"description": text} for status, text in answers.items()},
            }
        }


class CallbackEndpoint:
    """A channel's notify URL as a bare ASGI application: nothing is parsed for comfort."""

    def __init__(self, reception: Reception, *, proxies: Sequence[address.Network]) -> None:
        self._proxies = proxies
        self.path = f"/v1/order/callback/{reception.channel.name}"
        self._reception = reception
        self._seconds = metrics.SECONDS.labels(reception.channel.name)
        self._span_name = f"POST {self.path}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.perf_counter()
        # A trace begins here: whoever calls is a stranger until verified, and may not name the trace we go on with.
        with _tracer.start_as_current_span(
            self._span_name,
            context=otel_context.Context(),
            kind=SpanKind.SERVER,
            attributes={"http.request.method": scope["method"], "http.route": self.path, "url.path": self.path},
        ) as span:
            answer = await self._answer_in_time(scope, receive)
            span.set_attribute("http.response.status_code", answer.status)
            if answer.status >= 500:
                span.set_status(StatusCode.ERROR)
            await _send(send, answer)
        self._seconds.observe(time.perf_counter() - began)
        failpoint("payment_callback.after_answer")

    async def _answer_in_time(self, scope: Scope, receive: Receive) -> Answer:
        channel = self._reception.channel
        try:
            async with asyncio.timeout(_DEADLINE_SECONDS):
                return await self._answer(scope, receive)
        except TimeoutError:
            log.error("callback missed its deadline, the channel will repeat it")
            metrics.RECEIVED.labels(channel.name, "unstored", "deadline").inc()
            return channel.failed(503)
        except Exception:
            log.exception("callback failed, the channel will repeat it")
            metrics.RECEIVED.labels(channel.name, "unstored", "error").inc()
            return channel.failed(500)

    async def _answer(self, scope: Scope, receive: Receive) -> Answer:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        return await self._reception.receive(
            method=scope["method"],
            headers=headers,
            source_address=self._source(scope),
            body=await _body(headers, receive),
        )

    def _source(self, scope: Scope) -> str | None:
        client = scope.get("client")
        peer = client[0] if client else None
        if not self._proxies:
            return peer
        forwarded = [value.decode("latin-1") for name, value in scope["headers"] if name == b"x-forwarded-for"]
        return address.of_client(peer, ",".join(forwarded), self._proxies)


async def _body(headers: Mapping[str, str], receive: Receive) -> bytes | None:
    """The whole body, or None if it is larger than the largest; then the rest stays unread."""
    announced = headers.get("content-length", "")
    if announced.isdigit() and int(announced) > LARGEST_BODY:
        return None
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        part = message.get("body", b"")
        size += len(part)
        if size > LARGEST_BODY:
            return None
        parts.append(part)
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)


async def _send(send: Send, answer: Answer) -> None:
    headers = [(b"content-length", str(len(answer.body)).encode())] if answer.status != 204 else []
    if answer.body:
        headers.append((b"content-type", answer.media_type))
    if answer.status == 413:
        headers.append((b"connection", b"close"))  # nobody reads the rest
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})


class Callback(BaseModel):
    """One attempt of a channel to tell us something. Bodies and payers stay in the database."""

    id: int
    received_at: datetime
    channel: str
    verdict: Verdict
    reason: str | None
    detail: str | None
    status: int
    source_address: str | None
    headers: dict[str, str]
    bytes: int | None
    shape: str | None
    order_nos: list[str]
    transaction_ids: list[str]
    event_ids: list[str]
    trace_id: str | None


class Callbacks(BaseModel):
    callbacks: list[Callback]
    next: str | None  # pass it as `after` for the following page


# As a channel knows it: not necessarily one of ours. PostgreSQL's text holds every character but NUL.
OrderNo = Annotated[str, PathParameter(pattern=r"^[0-9A-Za-z_\-|*]{1,64}$")]


# What PostgreSQL can hold.
Text = Annotated[str, Query(max_length=200, pattern=r"^[^\x00]*$")]
Moment = Annotated[AwareDatetime, Field(ge=datetime(1970, 1, 1, tzinfo=UTC), lt=datetime(2200, 1, 1, tzinfo=UTC))]


class HoldRequest(BaseModel):
    reason: Annotated[str, Field(min_length=1, max_length=500, pattern=r"^[^\x00]*$")]  # e.g. the anomaly's id


class Hold(BaseModel):
    order_no: str
    reason: str
    placed_at: datetime


def router(pool: asyncpg.Pool, operator: auth.Guard) -> APIRouter:
    """What operators may see and do; `operator` lets nobody else through."""
    routes = APIRouter(prefix="/v1", tags=["callbacks"], dependencies=[Depends(operator)], responses=auth.RESPONSES)

    @routes.get("/callbacks", summary="Search the callback log, newest first")
    async def search(  # noqa: PLR0917  # pyright: ignore[reportUnusedFunction]  # the query string's fields
        order_no: Text | None = None,
        transaction_id: Text | None = None,
        channel: Text | None = None,
        result: Annotated[Verdict | None, Query(description="what we made of it")] = None,
        since: Moment | None = None,
        until: Moment | None = None,
        after: Annotated[str | None, Query(description="`next` of the page before")] = None,
        limit: Annotated[int, Query(ge=1, le=500)] = 50,
    ) -> Callbacks:
        now = datetime.now(UTC)
        async with pool.acquire() as conn:
            rows = await store.search(
                conn,
                order_no=order_no,
                transaction_id=transaction_id,
                channel=channel,
                verdict=result,
                since=since or now - timedelta(days=7),  # older ones are gone anyway
                until=until or now + timedelta(minutes=1),
                before=page(after) if after else None,
                most=limit + 1,
            )
        shown = rows[:limit]
        more = len(rows) > limit
        following = mark(shown[-1]["received_at"], shown[-1]["id"]) if more else None
        return Callbacks(callbacks=[_callback(row) for row in shown], next=following)

    @routes.get("/callbacks/holds", summary="Orders whose callbacks outlive the log's days")
    async def holds() -> list[Hold]:  # pyright: ignore[reportUnusedFunction]
        async with pool.acquire() as conn:
            return [Hold.model_validate(dict(row)) for row in await store.holds(conn)]

    @routes.put("/callbacks/holds/{order_no}", status_code=204, summary="Keep an order's callbacks until released")
    async def hold(order_no: OrderNo, why: HoldRequest) -> None:  # pyright: ignore[reportUnusedFunction]
        async with pool.acquire() as conn:
            await store.hold(conn, order_no, why.reason)

    @routes.delete("/callbacks/holds/{order_no}", status_code=204, summary="Let them go with their days")
    async def release(order_no: OrderNo) -> None:  # pyright: ignore[reportUnusedFunction]
        async with pool.acquire() as conn:
            await store.release(conn, order_no)

    return routes


def _callback(row: asyncpg.Record) -> Callback:
    return Callback.model_validate({**dict(row), "headers": orjson.loads(row["headers"])})
