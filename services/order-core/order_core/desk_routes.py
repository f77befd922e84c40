"""The desk over HTTP: anomalies and dead letters, for people with a name."""

from collections.abc import Mapping
from typing import Annotated, Any

import asyncpg
from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from orderloop.clock import Clock
from orderloop.ids import ORDER_NO_PATTERN
from orderloop.problem import Problem

from . import anomalies, commands, dead_letters, desk
from .repairs import Repair, Wish
from .request import Caller, IdempotencyKey, Reason, Text, answered, command
from .timers import Patience

Number = Annotated[int, Path(ge=1, le=2**63 - 1)]
OrderQuery = Annotated[str | None, Query(pattern=ORDER_NO_PATTERN)]
Before = Annotated[int | None, Query(ge=1, le=2**63 - 1, description="`next` of the page before")]
Limit = Annotated[int, Query(ge=1, le=200)]


class WishBody(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    repair: Repair
    reason: Reason
    order_no: Annotated[str, Field(pattern=ORDER_NO_PATTERN)] | None = Field(
        None, description="for link_to_order: the order that the payment belongs to"
    )
    amount_fen: Annotated[int, Field(strict=True, gt=0, le=10**12)] | None = Field(
        None, description="for request_refund; without it all that is left, or what failed"
    )
    version: Annotated[int, Field(ge=1)] | None = Field(
        None,
        description="`order.version` as the anomaly shows it, also when its payment is linked to another order: if the "
        "order that the anomaly names has moved on, nothing happens",
    )


class LettersBody(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    ids: Annotated[tuple[Annotated[int, Field(ge=1, le=2**63 - 1)], ...], Field(min_length=1, max_length=200)]
    reason: Reason


class SendBody(LettersBody):
    dry_run: bool = Field(False, description="only say what would be sent, and what would not and why")


def create(pool: asyncpg.Pool, clock: Clock, patience: Patience) -> APIRouter:
    router = APIRouter()

    @router.get("/v1/anomalies", tags=["desk"], summary="What a person should see, newest first")
    async def _list(
        kind: Annotated[str | None, Query(max_length=64, pattern="^[a-z_]+$")] = None,
        order_no: OrderQuery = None,
        open: bool | None = None,  # noqa: A002 # the query's own word
        before: Before = None,
        limit: Limit = 50,
    ) -> dict[str, Any]:
        async with pool.acquire() as conn:
            rows = await anomalies.page(conn, kind=kind, order_no=order_no, is_open=open, before=before, most=limit)
        return _page([desk.listed(row) for row in rows], limit)

    @router.get("/v1/anomalies/{number}", tags=["desk"], summary="One anomaly, its evidence and the allowed repairs")
    async def _show(number: Number) -> Mapping[str, Any]:
        async with pool.acquire() as conn:
            return await desk.show(conn, number)

    @router.post("/v1/anomalies/{number}/preview", tags=["desk"], summary="What a repair would do now")
    async def _preview(number: Number, body: WishBody, caller: Caller = "anonymous") -> Mapping[str, Any]:
        hand = desk.Hand(caller, f"preview:{number}", clock.now(), patience)
        async with pool.acquire() as conn:
            return await desk.preview(conn, number, _wish(body), hand)

    @router.post("/v1/anomalies/{number}/act", status_code=202, tags=["desk"], summary="Repair, once, by name")
    async def _act(
        request: Request, number: Number, body: WishBody, key: IdempotencyKey = None, caller: Caller = "anonymous"
    ) -> Response:
        async with pool.acquire() as conn:
            shown = await desk.show(conn, number)
            asked = await command(request, shown["order_no"], key, caller, about=f"{number}\n")
            hand = desk.Hand(caller, asked.event_id, clock.now(), patience)
            return answered(await desk.act(conn, asked, number, _wish(body), hand))

    @router.get("/v1/dead-letters", tags=["desk"], summary="Records that a consumer could not use, without their bytes")
    async def _letters(
        topic: Text | None = None,
        group: Text | None = None,
        open: bool | None = None,  # noqa: A002
        before: Before = None,
        limit: Limit = 50,
    ) -> dict[str, Any]:
        async with pool.acquire() as conn:
            rows = await dead_letters.page(conn, topic=topic, group=group, is_open=open, before=before, most=limit)
        return _page(rows, limit)

    @router.post(
        "/v1/dead-letters/redrive", status_code=202, tags=["desk"], summary="Send records again to where they were read"
    )
    async def _redrive(
        request: Request, body: SendBody, key: IdempotencyKey = None, caller: Caller = "anonymous"
    ) -> Response:
        # Letters may belong to no order: the access log has them under this name.
        asked = await command(request, "dead-letters", key or ("dry-run" if body.dry_run else None), caller)

        async with pool.acquire() as conn:

            async def send() -> Mapping[str, Any]:
                verdicts = await dead_letters.send_again(
                    conn, body.ids, by=caller, why=body.reason, now=clock.now(), dry_run=body.dry_run
                )
                return {"letters": [{"id": v.id, "sent": v.sent, "why_not": v.why_not} for v in verdicts]}

            if body.dry_run:
                async with conn.transaction():
                    return answered(commands.answer(200, await send()))
            return answered(await commands.once(conn, asked, send))

    @router.post(
        "/v1/dead-letters/dismiss", status_code=202, tags=["desk"], summary="Put records away that nobody can use"
    )
    async def _dismiss(
        request: Request, body: LettersBody, key: IdempotencyKey = None, caller: Caller = "anonymous"
    ) -> Response:
        asked = await command(request, "dead-letters", key, caller)

        async with pool.acquire() as conn:

            async def put_away() -> Mapping[str, Any]:
                now = clock.now()
                return {"dismissed": await dead_letters.dismiss(conn, body.ids, by=caller, why=body.reason, now=now)}

            return answered(await commands.once(conn, asked, put_away))

    return router


def _wish(body: WishBody) -> Wish:
    if body.repair is Repair.LINK_TO_ORDER and body.order_no is None:
        raise Problem(422, "invalid-request", "Say which order the payment belongs to.", errors=[{"field": "order_no"}])
    return Wish(body.repair, body.reason, body.order_no, body.amount_fen, body.version)


def _page(rows: list[dict[str, Any]], limit: int) -> dict[str, Any]:
    return {"items": rows, "next": rows[-1]["id"] if len(rows) == limit else None}
