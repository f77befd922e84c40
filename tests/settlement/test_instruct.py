"""Whatever the bank does, every receiver is paid once, by the bank's own ledger."""

import asyncio
import json
from datetime import UTC, datetime

import pytest

from orderloop.ids import new_order_no
from settlement.banks.generic import GenericBank
from tests.settlement.conftest import PAID, House, paced, request_for, until
from tests.support.bank import BankProcess


async def test_a_settlement_is_paid_at_once_and_its_success_is_published(
    house: House, bank: BankProcess, order_no: str
) -> None:
    await house.take_in(request_for(order_no))
    await house.turn_until_final()

    assert await house.status(order_no) == "success"
    assert await house.payouts(order_no) == {"merchant": "success", "platform": "success"}
    assert await house.published(order_no) == ["1:SUCCESS"]
    assert bank.paid(order_no) == PAID
    assert bank.calls(order_no) == ["instruct"]


async def test_a_result_says_when_the_money_arrived_and_continues_the_trace_of_its_request(
    house: House, order_no: str
) -> None:
    await house.take_in(request_for(order_no))
    await house.turn_until_final()

    row = await house.pool.fetchrow("select topic, traceparent, body from outbox")
    assert row is not None
    body = json.loads(row["body"])
    arrived_at = await house.pool.fetchval("select success_at from settlement")
    assert row["topic"] == "orderloop.settlement-result.v1"
    assert row["traceparent"].split("-")[1] == "0af7651916cd43dd8448eb211c80319c"
    assert datetime.fromisoformat(body["arrived_at"]) == arrived_at
    assert (body["bank_code"], body["amount_fen"], body["attempt"]) == ("0000", 9_900, 1)


async def test_an_answer_after_the_time_out_is_processing_and_then_one_success(
    house: House, bank: BankProcess, order_no: str
) -> None:
    bank.will(order_no=order_no, answer="slow", settle_seconds=0)
    await house.take_in(request_for(order_no))

    await house.turn()
    assert await house.status(order_no) == "processing"
    assert await house.published(order_no) == ["1:PROCESSING"]

    await house.turn_until_final()
    assert await house.status(order_no) == "success"
    assert await house.published(order_no) == ["1:PROCESSING", "1:SUCCESS"]
    assert bank.paid(order_no) == PAID
    assert bank.calls(order_no) == ["instruct", "query"]


@pytest.mark.parametrize("how", ["lost", "error", "html", "huge", "redirect", "other_status", "other_amount"])
async def test_a_deed_whose_answer_cannot_be_believed_is_asked_about_and_not_done_again(
    house: House, bank: BankProcess, order_no: str, how: str
) -> None:
    bank.will(order_no=order_no, answer=how)
    await house.take_in(request_for(order_no))
    await house.turn_until_final()

    assert await house.published(order_no) == ["1:PROCESSING", "1:SUCCESS"]
    assert bank.paid(order_no) == PAID
    assert bank.calls(order_no) == ["instruct", "query"]


@pytest.mark.parametrize("how", ["dropped", "unavailable", "throttled"])
async def test_what_never_reached_the_bank_is_asked_about_before_it_is_sent_again(
    house: House, bank: BankProcess, order_no: str, how: str
) -> None:
    bank.will(order_no=order_no, answer=how)
    await house.take_in(request_for(order_no))
    await house.turn_until_final()

    assert await house.published(order_no) == ["1:PROCESSING", "1:SUCCESS"]
    assert bank.paid(order_no) == PAID
    assert bank.calls(order_no) == ["instruct", "query", "instruct"]
    keys = {line["instruction_id"] for line in bank.ledger(order_no)["calls"]}
    assert keys == {f"{order_no}_P1"}


async def test_a_bank_that_is_down_for_long_is_asked_ever_more_rarely_and_pays_once_in_the_end(
    house: House, bank: BankProcess, order_no: str
) -> None:
    bank.will(order_no=order_no, answer="unavailable")
    bank.will(instruction_id=f"{order_no}_P1", route="query", answer="throttled", times=3)
    await house.take_in(request_for(order_no))

    waits: list[float] = []
    for _ in range(4):
        await house.turn()
        waits.append(
            await house.pool.fetchval("select extract(epoch from due_at - now())::float8 from settlement_timer")
        )
    await house.turn_until_final()

    assert [round(wait, -1) for wait in waits] == [30, 60, 120, 240]
    assert await house.published(order_no) == ["1:PROCESSING", "1:SUCCESS"]
    assert bank.paid(order_no) == PAID


async def test_a_bank_at_work_is_asked_until_the_money_has_arrived(
    house: House, bank: BankProcess, order_no: str
) -> None:
    bank.will(order_no=order_no, settle_seconds=0.5)
    await house.take_in(request_for(order_no))

    await house.turn()
    assert await house.status(order_no) == "processing"
    await house.turn_until_final(most=1_000)
    assert await house.status(order_no) == "success"
    assert await house.published(order_no) == ["1:PROCESSING", "1:SUCCESS"]
    assert bank.paid(order_no) == PAID


async def test_a_refusal_is_published_with_the_banks_code_and_reason(
    house: House, bank: BankProcess, order_no: str
) -> None:
    bank.will(order_no=order_no, outcome="failed", bank_code="E777", reason="NO_RELATION")
    await house.take_in(request_for(order_no))
    await house.turn_until_final()

    body = json.loads(await house.pool.fetchval("select body from outbox"))
    assert (body["status"], body["bank_code"]) == ("FAILED", "E777")
    assert body["reason"] == "merchant: NO_RELATION; platform: NO_RELATION"
    assert body["arrived_at"] is None
    assert await house.payouts(order_no) == {"merchant": "failed", "platform": "failed"}
    assert bank.paid(order_no) == {}


async def test_after_a_refusal_a_new_instruction_may_pay(house: House, bank: BankProcess, order_no: str) -> None:
    bank.will(order_no=order_no, outcome="failed")
    await house.take_in(request_for(order_no))
    await house.turn_until_final()

    await house.take_in(request_for(order_no, part=2))
    await house.turn_until_final()

    assert await house.published(order_no) == ["1:FAILED", "1:SUCCESS"]
    assert bank.paid(order_no) == PAID


async def test_a_partial_refusal_is_no_success_and_remembers_who_was_paid(
    house: House, bank: BankProcess, order_no: str
) -> None:
    bank.will(order_no=order_no, outcome="failed", failed_receivers=["platform"])
    await house.take_in(request_for(order_no))
    await house.turn_until_final()

    assert await house.published(order_no) == ["1:FAILED"]
    assert await house.payouts(order_no) == {"merchant": "success", "platform": "failed"}
    assert bank.paid(order_no) == {"merchant": (1, 9_841)}


async def test_while_the_bank_is_called_no_transaction_is_open_and_the_call_is_written_down(
    house: House, bank: BankProcess, order_no: str
) -> None:
    bank.will(order_no=order_no, answer="slow")
    await house.take_in(request_for(order_no))

    calling = asyncio.create_task(house.turn())
    await until(lambda: bank.calls(order_no) == ["instruct"])
    assert await house.status(order_no) == "sending"
    assert await house.pool.fetchval("select count(*) from bank_call where answered_at is null") == 1
    busy = "select count(*) from pg_stat_activity where datname = current_database() and state like 'idle in trans%'"
    assert await house.pool.fetchval(busy) == 0
    await calling


async def test_a_straggler_that_comes_back_after_another_worker_has_finished_changes_nothing(
    house: House, generic: GenericBank, bank: BankProcess, order_no: str
) -> None:
    bank.will(order_no=order_no, answer="slow")
    await house.take_in(request_for(order_no))

    straggler = asyncio.create_task(house.turn())
    await until(lambda: bank.calls(order_no) == ["instruct"])
    await House(house.pool, paced(house.pool, generic)).turn_until_final()
    await straggler

    assert await house.status(order_no) == "success"
    assert await house.published(order_no) == ["1:SUCCESS"]
    assert await house.turn() == 0
    assert bank.paid(order_no) == PAID
    assert bank.calls(order_no) == ["instruct", "query"]  # the second worker asked, it did not send


async def test_two_workers_share_the_work_and_call_once_each(
    house: House, generic: GenericBank, bank: BankProcess
) -> None:
    orders = [new_order_no(datetime.now(UTC)) for _ in range(40)]
    await house.take_in(*(request_for(order_no) for order_no in orders))
    workers = [paced(house.pool, generic) for _ in range(3)]

    while sum(await asyncio.gather(*(worker.settle_due() for worker in workers))):
        pass

    assert {await house.status(order_no) for order_no in orders} == {"success"}
    assert [bank.calls(order_no) for order_no in orders] == [["instruct"]] * 40


async def test_a_settlement_that_waits_for_its_answer_holds_up_no_other(
    house: House, bank: BankProcess, order_no: str
) -> None:
    other = new_order_no(datetime.now(UTC))
    bank.will(order_no=order_no, answer="slow")
    await house.take_in(request_for(order_no), request_for(other))
    await house.turn()

    assert await house.status(other) == "success"
    assert await house.status(order_no) == "processing"
