"""What taking in a batch of settlement requests promises, on a real PostgreSQL."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime

import asyncpg
import pytest

from orderloop.ids import new_order_no
from settlement.requests import InstructionReused
from tests.settlement.conftest import House, request_for


def orders(count: int) -> list[str]:
    return [new_order_no(datetime.now(UTC)) for _ in range(count)]


async def counts(house: House) -> dict[str, int]:
    tables = ("inbox", "settlement", "payout", "settlement_timer")
    return {table: await house.pool.fetchval(f"select count(*) from {table}") for table in tables}  # noqa: S608


async def test_a_batch_becomes_settlements_payouts_and_timers(house: House) -> None:
    await house.take_in(*(request_for(order_no) for order_no in orders(50)))

    assert await counts(house) == {"inbox": 50, "settlement": 50, "payout": 100, "settlement_timer": 50}
    sums = await house.pool.fetch("select sum(amount_fen) as fen from payout group by order_no, instruction_id")
    assert {row["fen"] for row in sums} == {9_900}


async def test_a_request_twice_in_a_batch_and_again_later_settles_once(house: House, order_no: str) -> None:
    await house.take_in(request_for(order_no), request_for(order_no))
    await house.take_in(request_for(order_no))

    assert await counts(house) == {"inbox": 1, "settlement": 1, "payout": 2, "settlement_timer": 1}


async def test_the_same_instruction_under_another_event_id_settles_once(house: House, order_no: str) -> None:
    _, request = request_for(order_no)

    await house.take_in(("first", request), ("again", request))
    await house.take_in(("later", request))

    assert await counts(house) == {"inbox": 3, "settlement": 1, "payout": 2, "settlement_timer": 1}


@pytest.mark.parametrize("together", [True, False])
async def test_the_same_instruction_with_another_amount_is_refused_and_leaves_no_trace(
    house: House, order_no: str, together: bool
) -> None:
    _, first = request_for(order_no)
    _, other = request_for(order_no, amount_fen=9_901)
    if not together:
        await house.take_in(("first", first))
    before = await counts(house)

    with pytest.raises(InstructionReused):
        await house.take_in(*([("first", first)] if together else []), ("other", other))

    assert await counts(house) == before


async def test_a_second_instruction_for_an_order_is_refused_while_the_first_may_be_paid(
    house: House, order_no: str
) -> None:
    await house.take_in(request_for(order_no))

    with pytest.raises(asyncpg.UniqueViolationError, match="a_receiver_is_paid_once_per_order"):
        await house.take_in(request_for(order_no, part=2))

    assert (await counts(house))["settlement"] == 1


async def test_an_instruction_that_names_another_order_is_refused(house: House, order_no: str) -> None:
    (event_id, request), stranger = request_for(order_no), orders(1)[0]

    with pytest.raises(asyncpg.CheckViolationError, match="an_instruction_names_its_order"):
        await house.take_in((event_id, replace(request, instruction_id=f"{stranger}_P1")))


async def test_no_money_is_no_settlement(house: House, order_no: str) -> None:
    with pytest.raises(asyncpg.CheckViolationError, match="amount_is_positive"):
        await house.take_in(request_for(order_no, amount_fen=0))

    assert (await counts(house))["inbox"] == 0


async def test_overlapping_batches_at_once_neither_deadlock_nor_settle_twice(house: House) -> None:
    requests = [request_for(order_no) for order_no in orders(60)]

    await asyncio.gather(*(house.take_in(*requests[shift:], *requests[:shift]) for shift in range(0, 60, 15)))

    assert await counts(house) == {"inbox": 60, "settlement": 60, "payout": 120, "settlement_timer": 60}
