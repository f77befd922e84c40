"""The generic bank adapter against the simulator: what it believes, and what it leaves unknown."""

import asyncio
import time
from contextlib import suppress

import httpx
import pytest

from orderloop.clock import SystemClock
from orderloop_lab.home import free_port
from settlement.answers import Instruction, NotFound, Payout, PayoutStatus, Told, Unknown
from settlement.banks.generic import GenericBank
from tests.settlement.conftest import PAID
from tests.support.bank import SECRET, BankProcess


def instruction(order_no: str) -> Instruction:
    return Instruction(f"{order_no}_P1", order_no, (Payout("merchant", "M", 9_841), Payout("platform", "P", 59)))


def nothing() -> None:
    pass


async def test_a_paid_instruction_is_told_receiver_by_receiver(
    bank: BankProcess, generic: GenericBank, order_no: str
) -> None:
    answer = await generic.instruct(instruction(order_no), on_sent=nothing)

    assert isinstance(answer, Told)
    assert answer.bank_code == "0000"
    assert {payout.receiver: payout.status for payout in answer.payouts} == {
        "merchant": PayoutStatus.SUCCESS,
        "platform": PayoutStatus.SUCCESS,
    }
    assert all(payout.arrived_at is not None for payout in answer.payouts)
    assert await generic.ask(instruction(order_no)) == answer
    assert bank.paid(order_no) == PAID


async def test_what_the_bank_never_saw_is_not_found(generic: GenericBank, order_no: str) -> None:
    assert await generic.ask(instruction(order_no)) == NotFound()


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("slow", "timeout"),
        ("lost", "remote_protocol_error|read_error"),
        ("dropped", "remote_protocol_error|read_error"),
        ("error", "http_500"),
        ("unavailable", "http_503"),
        ("throttled", "http_429"),
        ("redirect", "http_302"),
        ("html", "answer_malformed"),
        ("huge", "answer_too_large"),
        ("other_status", "answer_malformed"),
        ("other_amount", "answer_of_another_instruction"),
    ],
)
@pytest.mark.parametrize("route", ["instruct", "query"])
async def test_an_answer_that_cannot_be_believed_leaves_the_outcome_unknown(
    *, bank: BankProcess, generic: GenericBank, order_no: str, how: str, reason: str, route: str
) -> None:
    if route == "query":
        await generic.instruct(instruction(order_no), on_sent=nothing)
    bank.will(order_no=order_no, route=route, answer=how)

    started = time.monotonic()
    wanted = instruction(order_no)
    answer = await (generic.instruct(wanted, on_sent=nothing) if route == "instruct" else generic.ask(wanted))

    assert isinstance(answer, Unknown)
    assert answer.reason in reason.split("|")
    assert time.monotonic() - started < 10  # the slow answer takes 20 s


async def test_the_same_reference_with_another_body_is_not_taken_for_an_answer(
    bank: BankProcess, generic: GenericBank, order_no: str
) -> None:
    await generic.instruct(instruction(order_no), on_sent=nothing)
    other = Instruction(f"{order_no}_P1", order_no, (Payout("merchant", "M", 1),))

    assert await generic.instruct(other, on_sent=nothing) == Unknown("http_422")
    assert await generic.ask(other) == Unknown("answer_of_another_instruction")
    assert bank.paid(order_no) == PAID


async def test_a_bank_that_is_not_there_leaves_the_outcome_unknown(order_no: str) -> None:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{free_port()}", trust_env=False) as client:
        nowhere = GenericBank(client, secret=SECRET.encode(), timeout_seconds=5, clock=SystemClock())

        assert await nowhere.instruct(instruction(order_no), on_sent=nothing) == Unknown("connect_error")


async def test_a_wrong_secret_moves_nothing(bank: BankProcess, order_no: str) -> None:
    async with httpx.AsyncClient(base_url=bank.url, trust_env=False) as client:
        stranger = GenericBank(client, secret=b"not the bank's secret", timeout_seconds=5, clock=SystemClock())

        assert await stranger.instruct(instruction(order_no), on_sent=nothing) == Unknown("http_401")
    assert bank.paid(order_no) == {}


async def test_an_answer_that_trickles_is_late_however_busy_the_line(order_no: str) -> None:
    hung_up = asyncio.Event()

    async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        while not reader.at_eof():
            writer.write(b" ")
            with suppress(TimeoutError):
                await asyncio.wait_for(reader.read(1), 0.02)
        writer.close()
        await writer.wait_closed()
        hung_up.set()

    async with (
        await asyncio.start_server(trickle, "127.0.0.1", 0) as server,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", trust_env=False) as client,
    ):
        slow = GenericBank(client, secret=SECRET.encode(), timeout_seconds=0.3, clock=SystemClock())

        assert await slow.ask(instruction(order_no)) == Unknown("timeout")
        await hung_up.wait()
        server.close()


async def test_the_moment_of_sending_is_told_before_the_answer(
    bank: BankProcess, generic: GenericBank, order_no: str
) -> None:
    bank.will(order_no=order_no, answer="slow")
    sent: list[float] = []

    assert await generic.instruct(instruction(order_no), on_sent=lambda: sent.append(time.monotonic())) == Unknown(
        "timeout"
    )
    assert len(sent) == 1
