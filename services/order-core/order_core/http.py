"""order-core over HTTP: parse, call, map the result."""

from typing import Annotated, Any, Self

import asyncpg
from fastapi import Depends, FastAPI, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, model_validator
from redis.asyncio import Redis

from orderloop import http, tracing
from orderloop.clock import Clock
from orderloop.events import Decision, Item, Receiver
from orderloop.health import Health
from orderloop.ids import ORDER_NO_PATTERN
from orderloop.problem import Problem

from . import commands, desk_routes, history
from .orders import AskRefund, Close, ConfirmReceipt, Order
from .request import OrderNo, Reason, Text, answered, log_access, order_command
from .reserve import Reservation, ReservationDiffers, reserve
from .settings import OrderSettings
from .ship import ship
from .states import Status
from .timeline import summary, timeline

# All of an order goes into one event; the broker takes sixteen times as much.
_MOST_BODY = 64 * 1024

# SET-5: confirming moves money, and not at once.
RECEIPT_PROMPT = {
    "zh": "确认收货将触发资金分账,预计 1–3 个工作日到账,请以银行短信为准。",
    "en": "Confirming receipt triggers the split of the money. Expect it within 1–3 working days; "
    "the bank's message is authoritative.",
}


class ReserveBody(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    source: Annotated[Text, Field(description="the shop, such as douyin or pos-17")]
    external_order_id: Annotated[Text, Field(description="the shop's own id; the same id gets the same order_no")]
    amount_fen: Annotated[int, Field(strict=True, gt=0, le=10**12, description="what the customer is to pay, in fen")]
    currency: Annotated[str, Field(pattern="^[A-Z]{3}$")] = "CNY"
    items: Annotated[tuple[Item, ...], Field(min_length=1, max_length=200)]
    receiver: Receiver


class RefundBody(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    reason: Reason
    amount_fen: Annotated[int, Field(strict=True, gt=0, le=10**12)] | None = Field(
        None, description="without it, all that is left"
    )
    channel: Text | None = Field(None, description="with transaction_id: a payment that stands beside the order's own")
    transaction_id: Text | None = None

    @model_validator(mode="after")
    def _names_a_payment_whole_or_not_at_all(self) -> Self:
        if (self.channel is None) is not (self.transaction_id is None):
            raise ValueError("channel and transaction_id name a payment together: send both, or neither")
        return self


class ShipBody(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    warehouse: Text | None = None
    express_code: Annotated[str, Field(pattern="^[a-z0-9]{2,32}$", description="such as zto")] | None = None


def create(*, pool: asyncpg.Pool, redis: Redis, clock: Clock, health: Health, settings: OrderSettings) -> FastAPI:
    app = http.create_app(
        "order-core",
        title="OrderLoop order-core",
        description="The one owner of an order's state.",
        health=health,
    )

    @app.post("/v1/orders", status_code=201, tags=["orders"], summary="Reserve an order_no before the customer pays")
    async def _reserve(request: Request, body: ReserveBody, response: Response) -> dict[str, Any]:
        wanted = Reservation(**{name: getattr(body, name) for name in ReserveBody.model_fields})
        try:
            async with pool.acquire() as conn:
                order_no, new = await reserve(conn, wanted, now=clock.now(), patience=settings.patience)
        except ReservationDiffers as error:
            request.state.order_no = error.order_no
            raise Problem(
                409,
                "reservation-differs",
                "This external_order_id is reserved already, for other goods or another amount.",
                order_no=error.order_no,
            ) from None
        request.state.order_no = order_no
        tracing.tag_order(order_no)
        response.status_code = 201 if new else 200
        return {"order_no": order_no}

    @app.get("/v1/orders", tags=["orders"], summary="Orders, newest first")
    async def _list(
        status: Status | None = None,
        source: Text | None = None,
        after: Annotated[str | None, Query(pattern=ORDER_NO_PATTERN, description="`next` of the page before")] = None,
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
    ) -> dict[str, Any]:
        async with pool.acquire() as conn:
            rows, following = await history.page(conn, status=status, source=source, after=after, most=limit)
        return {"items": [summary(row) for row in rows], "next": following}

    @app.get("/v1/orders/{order_no}", tags=["orders"], summary="The order as it stands")
    async def _read(order_no: OrderNo) -> dict[str, Any]:
        tracing.tag_order(order_no)
        async with pool.acquire() as conn:
            row = await history.order_by_number(conn, order_no)
        if row is None:
            raise Problem(404, "unknown-order", "No order has this number.")
        return summary(row)

    @app.get("/v1/orders/{order_no}/timeline", tags=["orders"], summary="Everything that happened to the order")
    async def _timeline(order_no: OrderNo) -> dict[str, Any]:
        tracing.tag_order(order_no)
        async with pool.acquire() as conn:
            story = await timeline(conn, order_no)
        if story is None:
            raise Problem(404, "unknown-order", "No order has this number.")
        return dict(story)

    @app.post("/v1/orders/{order_no}/ship", status_code=202, tags=["orders"], summary="Ship the order, once")
    async def _ship(
        order_no: OrderNo, body: ShipBody, command: Annotated[commands.Request, Depends(order_command)]
    ) -> Response:
        decision = Decision(
            warehouse=body.warehouse or settings.default_warehouse,
            express_code=body.express_code or settings.default_express_code,
        )
        return answered(await ship(pool, redis, command, decision=decision, now=clock.now()))

    @app.post(
        "/v1/orders/{order_no}/confirm-receipt",
        status_code=202,
        tags=["orders"],
        summary="The customer has the goods: the money may move",
    )
    async def _confirm(order_no: OrderNo, command: Annotated[commands.Request, Depends(order_command)]) -> Response:
        def answer(order: Order) -> dict[str, Any]:
            return {"order_no": order.order_no, "status": order.status, "prompt": RECEIPT_PROMPT}

        async with pool.acquire() as conn:
            done = await commands.execute(
                conn,
                command,
                event_id=f"{order_no}:receipt-confirmed",
                body=ConfirmReceipt(),
                told=answer,
                now=clock.now(),
                patience=settings.patience,
            )
        return answered(done)

    @app.get(
        "/v1/orders/{order_no}/confirm-receipt/prompt",
        tags=["orders"],
        summary="What to tell the customer before confirming",
    )
    async def _prompt(order_no: OrderNo) -> dict[str, str]:
        return RECEIPT_PROMPT

    @app.post(
        "/v1/orders/{order_no}/close",
        status_code=202,
        tags=["orders"],
        summary="Nobody shall pay any more: the channels are asked, and the order is closed by their word",
    )
    async def _close(order_no: OrderNo, command: Annotated[commands.Request, Depends(order_command)]) -> Response:
        def answer(order: Order) -> dict[str, Any]:
            return {"order_no": order.order_no, "status": order.status, "closing": True}

        async with pool.acquire() as conn:
            done = await commands.execute(
                conn, command, body=Close(), told=answer, now=clock.now(), patience=settings.patience
            )
        return answered(done)

    @app.post("/v1/orders/{order_no}/refund", status_code=202, tags=["orders"], summary="Give money back, once")
    async def _refund(
        order_no: OrderNo, body: RefundBody, command: Annotated[commands.Request, Depends(order_command)]
    ) -> Response:
        def answer(order: Order) -> dict[str, Any]:
            refund = max(order.refunds, key=lambda one: one.number)
            return {
                "order_no": order.order_no,
                "status": order.status,
                "out_refund_no": refund.out_refund_no,
                "amount_fen": refund.amount_fen,
                "state": refund.state,
            }

        transaction = (body.channel, body.transaction_id) if body.channel and body.transaction_id else None
        async with pool.acquire() as conn:
            done = await commands.execute(
                conn,
                command,
                body=AskRefund(body.reason, body.amount_fen, transaction),
                told=answer,
                now=clock.now(),
                patience=settings.patience,
            )
        return answered(done)

    app.add_middleware(http.BodyLimit, most=_MOST_BODY)
    app.include_router(desk_routes.create(pool, clock, settings.patience))
    log_access(app, pool)
    return app
