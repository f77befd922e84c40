"""A person asks again after the bank has refused: the bank repeats its refusal first, and nobody is paid twice."""

from dataclasses import replace

import pytest

from settlement.banks.generic import GenericBank
from tests.settlement.conftest import PAID, RULE, House, paced, request_for
from tests.support.bank import BankProcess

ANOTHER_TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


async def test_a_refused_settlement_that_is_asked_for_again_is_paid_under_a_reference_of_its_own(
    house: House, bank: BankProcess, order_no: str
) -> None:
    bank.will(order_no=order_no, outcome="failed")
    await house.take_in(request_for(order_no))
    await house.turn_until_final()

    event_id, again = request_for(order_no, attempt=2)
    await house.take_in((event_id, replace(again, traceparent=ANOTHER_TRACE)))
    assert await house.status(order_no) == "retrying"
    await house.turn_until_final()

    assert await house.status(order_no) == "success"
    assert await house.published(order_no) == ["1:FAILED", "2:SUCCESS"]
    assert bank.paid(order_no) == PAID
    calls = [(line["route"], line["instruction_id"].removeprefix(order_no)) for line in bank.ledger(order_no)["calls"]]
    assert calls == [("instruct", "_P1"), ("query", "_P1"), ("instruct", "_P1_A2")]
    traces = [
        row[0] for row in await house.pool.fetch("select split_part(traceparent, '-', 2) from outbox order by id")
    ]
    assert traces == ["0af7651916cd43dd8448eb211c80319c", ANOTHER_TRACE.split("-")[1]]


async def test_only_who_was_refused_is_paid_by_the_next_attempt(house: House, bank: BankProcess, order_no: str) -> None:
    bank.will(order_no=order_no, outcome="failed", failed_receivers=["platform"])
    await house.take_in(request_for(order_no))
    await house.turn_until_final()

    await house.take_in(request_for(order_no, attempt=2))
    await house.turn_until_final()

    assert await house.published(order_no) == ["1:FAILED", "2:SUCCESS"]
    assert bank.paid(order_no) == PAID
    rows = await house.pool.fetch("select attempt, receiver, status from payout order by 1, 2")
    assert [tuple(row) for row in rows] == [
        (1, "merchant", "success"),
        (1, "platform", "failed"),
        (2, "platform", "success"),
    ]


async def test_the_next_attempt_goes_to_the_account_that_was_mended(
    house: House, generic: GenericBank, bank: BankProcess, order_no: str
) -> None:
    bank.will(order_no=order_no, outcome="failed")
    await house.take_in(request_for(order_no))
    await house.turn_until_final()

    mended = House(house.pool, paced(house.pool, generic, accounts=RULE.accounts | {"merchant": "6222-mended"}))
    await mended.take_in(request_for(order_no, attempt=2))
    await mended.turn_until_final()

    assert bank.paid(order_no) == PAID
    accounts = await house.pool.fetch("select account from payout where receiver = 'merchant' order by attempt")
    assert [row["account"] for row in accounts] == ["6222-merchant", "6222-mended"]


@pytest.mark.parametrize("how", ["lost", "error", "throttled", "other_amount"])
async def test_while_the_bank_does_not_repeat_its_refusal_nothing_is_sent(
    house: House, bank: BankProcess, order_no: str, how: str
) -> None:
    bank.will(order_no=order_no, outcome="failed")
    await house.take_in(request_for(order_no))
    await house.turn_until_final()
    bank.will(order_no=order_no, route="query", answer=how, times=3)

    await house.take_in(request_for(order_no, attempt=2))
    for _ in range(3):
        await house.turn()
        assert await house.status(order_no) == "retrying"
    assert bank.calls(order_no) == ["instruct", "query", "query", "query"]
    assert await house.pool.fetchval("select count(*) from payout") == 2
    await house.turn_until_final()

    assert await house.published(order_no) == ["1:FAILED", "2:SUCCESS"]
    assert bank.paid(order_no) == PAID


async def test_a_bank_that_has_paid_after_all_is_not_asked_to_pay_again(
    house: House, bank: BankProcess, order_no: str
) -> None:
    await house.take_in(request_for(order_no))
    await house.turn_until_final()
    # as if the bank had refused first, and mended it by itself
    await house.pool.execute("update payout set status = 'failed', arrived_at = null")
    await house.pool.execute("update settlement set status = 'failed', success_at = null")
    await house.pool.execute("delete from outbox")

    await house.take_in(request_for(order_no, attempt=2))
    await house.turn_until_final()

    assert await house.status(order_no) == "success"
    assert await house.published(order_no) == ["1:SUCCESS", "1:bank_contradiction"]
    assert await house.payouts(order_no) == {"merchant": "success", "platform": "success"}
    assert bank.paid(order_no) == PAID
    assert bank.calls(order_no) == ["instruct", "query"]


async def test_an_attempt_is_asked_for_as_often_as_the_request_comes_and_made_once(
    house: House, bank: BankProcess, order_no: str
) -> None:
    bank.will(order_no=order_no, outcome="failed")
    await house.take_in(request_for(order_no))
    await house.turn_until_final()

    _, request = request_for(order_no, attempt=2)
    await house.take_in(("first", request), ("again", request))
    await house.turn_until_final()
    await house.take_in(("later", request))
    await house.turn_until_final()

    assert await house.published(order_no) == ["1:FAILED", "2:SUCCESS"]
    assert bank.paid(order_no) == PAID


async def test_a_third_attempt_follows_a_second_refusal(house: House, bank: BankProcess, order_no: str) -> None:
    bank.will(order_no=order_no, outcome="failed", times=2)
    for attempt in (1, 2, 3):
        await house.take_in(request_for(order_no, attempt=attempt))
        await house.turn_until_final()

    assert await house.published(order_no) == ["1:FAILED", "2:FAILED", "3:SUCCESS"]
    assert bank.paid(order_no) == PAID


async def test_a_wish_that_comes_while_the_bank_is_at_work_is_kept_until_it_refuses(
    house: House, bank: BankProcess, order_no: str
) -> None:
    """As after a restore of this database: order-core remembers the refusal, and we do not."""
    bank.will(order_no=order_no, outcome="failed")
    await house.take_in(request_for(order_no), request_for(order_no, attempt=2))
    await house.turn_until_final()

    assert await house.status(order_no) == "success"
    assert await house.published(order_no) == ["1:FAILED", "2:SUCCESS"]
    assert bank.paid(order_no) == PAID


async def test_a_wish_without_a_refusal_changes_nothing(house: House, bank: BankProcess, order_no: str) -> None:
    await house.take_in(request_for(order_no))
    await house.turn_until_final()

    await house.take_in(request_for(order_no, attempt=2))

    assert await house.turn() == 0
    assert await house.status(order_no) == "success"
    assert bank.calls(order_no) == ["instruct"]
