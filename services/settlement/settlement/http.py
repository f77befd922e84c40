"""What settlement answers: the list that finance looks through. It never touches the order table."""

from collections.abc import Sequence
from typing import Annotated

import asyncpg
from fastapi import APIRouter, Query
from pydantic import AwareDatetime, BaseModel, Field

from orderloop.ids import is_order_no
from orderloop.problem import Problem

from . import store
from .states import Status


class Settlement(BaseModel):
    order_no: str
    instruction_id: str
    attempt: int
    amount_fen: int
    status: Status
    bank_code: str | None = Field(description="the bank's own code of its last answer")
    arrived_at: AwareDatetime | None = Field(description="when the last of the money arrived, by the bank's clock")
    reason: str | None = Field(description="why it is not, or not yet, a success")
    requested_at: AwareDatetime


class Settlements(BaseModel):
    items: list[Settlement]
    next: str | None = Field(description="`after` of the next page; null on the last one")


def routes(pool: asyncpg.Pool) -> APIRouter:
    router = APIRouter(prefix="/v1/settlements", tags=["settlements"])

    @router.get("", summary="Settlements, newest order first", response_model=Settlements)
    async def list_settlements(
        *,
        order_no: Annotated[str | None, Query(max_length=32)] = None,
        instruction_id: Annotated[str | None, Query(max_length=64, pattern=r"^[0-9A-Za-z_]+$")] = None,
        status: Status | None = None,
        requested_from: AwareDatetime | None = None,
        requested_until: Annotated[AwareDatetime | None, Query(description="exclusive")] = None,
        after: Annotated[str | None, Query(max_length=128, description="`next` of the page before")] = None,
        limit: Annotated[int, Query(ge=1, le=500)] = 50,
    ) -> Settlements:
        wanted = store.Search(
            order_no=_order_no(order_no),
            instruction_id=instruction_id,
            status=status,
            requested_from=requested_from,
            requested_until=requested_until,
            after=_key(after),
        )
        async with pool.acquire() as conn:
            rows = await store.search(conn, wanted, most=limit + 1)
        return _page(rows, limit)

    return router


def _page(rows: Sequence[store.Row], limit: int) -> Settlements:
    """One row more than the page tells whether there is another page."""
    more = len(rows) > limit
    items = [Settlement.model_validate(row, from_attributes=True) for row in rows[:limit]]
    return Settlements(items=items, next=":".join(rows[limit - 1].key) if more else None)


def _order_no(text: str | None) -> str | None:
    if text is not None and not is_order_no(text):
        raise Problem(422, "invalid-request", "This is not an order_no of this house.")
    return text


def _key(after: str | None) -> store.Key | None:
    if after is None:
        return None
    order_no, _, instruction_id = after.partition(":")
    if not is_order_no(order_no) or not instruction_id.isprintable():
        raise Problem(422, "invalid-request", "`after` is not what an earlier page gave as `next`.")
    return order_no, instruction_id
