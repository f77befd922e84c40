"""order-core over HTTP: parse, call, map the result."""

from typing import Annotated, Any

import asyncpg
from fastapi import Depends, FastAPI, Header, Path, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from redis.asyncio import Redis

from orderloop import http, tracing
from orderloop.clock import Clock
from orderloop.events import Decision, Item, Receiver
from orderloop.health import Health
from orderloop.ids import ORDER_NO
from orderloop.problem import Problem

from . import answers, commands, history
from .orders import ConfirmReceipt, Order
from .reserve import Reservation, ReservationDiffers, reserve
from .settings import OrderSettings
from .ship import ship
from .timeline import summary, timeline

# SET-5: confirming moves money, and not at once.
RECEIPT_PROMPT = {
    "zh": "确认收货将触发资金分账,预计 1–3 个工作日到账,请以银行短信为准。",
    "en": "Confirming receipt triggers the split of the money. Expect it within 1–3 working days; "
    "the bank's message is authoritative.",
}

OrderNo = Annotated[str, Path(pattern=f"^{ORDER_NO.pattern}$", description="as given by POST /v1/orders")]
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


class ReserveBody(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    source: Annotated[Text, Field(description="the shop, such as douyin or pos-17")]
    external_order_id: Annotated[Text, Field(description="the shop's own id; the same id gets the same order_no")]
    amount_fen: Annotated[int, Field(strict=True, gt=0, le=10**12, description="what the customer is to pay, in fen")]
    currency: Annotated[str, Field(pattern="^[A-Z]{3}$")] = "CNY"
    items: Annotated[tuple[Item, ...], Field(min_length=1, max_length=200)]
    receiver: Receiver


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
    async def _reserve(body: ReserveBody, response: Response) -> dict[str, Any]:
        wanted = Reservation(**{name: getattr(body, name) for name in ReserveBody.model_fields})
        try:
            async with pool.acquire() as conn:
                order_no, new = await reserve(conn, wanted, now=clock.now())
        except ReservationDiffers as error:
            raise Problem(
                409,
                "reservation-differs",
                "This external_order_id is reserved already, for other goods or another amount.",
                order_no=error.order_no,
            ) from None
        tracing.tag_order(order_no)
        response.status_code = 201 if new else 200
        return {"order_no": order_no}

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
        order_no: OrderNo, body: ShipBody, command: Annotated[commands.Request, Depends(_command)]
    ) -> Response:
        decision = Decision(
            warehouse=body.warehouse or settings.default_warehouse,
            express_code=body.express_code or settings.default_express_code,
        )
        return _answered(await ship(pool, redis, command, decision=decision, now=clock.now()))

    @app.post(
        "/v1/orders/{order_no}/confirm-receipt",
        status_code=202,
        tags=["orders"],
        summary="The customer has the goods: the money may move",
    )
    async def _confirm(order_no: OrderNo, command: Annotated[commands.Request, Depends(_command)]) -> Response:
        def answer(order: Order) -> dict[str, Any]:
            return {"order_no": order.order_no, "status": order.status, "prompt": RECEIPT_PROMPT}

        async with pool.acquire() as conn:
            done = await commands.execute(
                conn,
                command,
                event_id=f"{order_no}:receipt-confirmed",
                body=ConfirmReceipt(),
                answer=answer,
                now=clock.now(),
            )
        return _answered(done)

    @app.get(
        "/v1/orders/{order_no}/confirm-receipt/prompt",
        tags=["orders"],
        summary="What to tell the customer before confirming",
    )
    async def _prompt(order_no: OrderNo) -> dict[str, str]:
        return RECEIPT_PROMPT

    @app.middleware("http")
    async def _access_log(request: Request, call_next: Any) -> Response:
        """Every attempt at a change, refused ones included: the patrol counts them by order."""
        response: Response = await call_next(request)
        command: commands.Request | None = getattr(request.state, "command", None)
        if command is not None:
            async with pool.acquire() as conn:
                await answers.log_access(
                    conn,
                    order_no=command.order_no,
                    request_id=request.headers.get("x-request-id", command.key)[:128],
                    route=command.route,
                    caller=command.caller,
                    status=response.status_code,
                )
        return response

    return app


async def _command(
    request: Request, order_no: OrderNo, key: IdempotencyKey = None, caller: Caller = "anonymous"
) -> commands.Request:
    tracing.tag_order(order_no)
    if key is None:
        raise Problem(
            400,
            "idempotency-key-missing",
            "Send an Idempotency-Key header (a UUID, the same one on every retry), so that a retry cannot do it twice.",
        )
    route = request.url.path.rsplit("/", 1)[-1]
    request.state.command = commands.Request(caller, route, key, order_no, await request.body())
    return request.state.command


def _answered(answer: commands.Answer) -> Response:
    return Response(answer.body, answer.status, media_type="application/json")
