"""Settlement on a database of the test's own, against the bank simulator."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import asyncpg
import httpx
import pytest

from orderloop import postgres
from orderloop.clock import SystemClock
from orderloop.health import Health
from orderloop.ids import new_order_no
from orderloop.settings import PostgresSettings
from settlement.banks.generic import GenericBank
from settlement.instruct import Instructor, Pace
from settlement.requests import take_in
from settlement.split import Receiver, SplitRule
from settlement.store import Request
from tests.support.bank import SECRET, BankProcess
from tests.support.databases import Database

RULE = SplitRule(Receiver("platform", "6222-platform"), 60, (Receiver("merchant", "6222-merchant"),))
PAID = {"merchant": (1, 9_841), "platform": (1, 59)}  # 99.00 yuan by RULE, at the bank's own ledger
BANK_SECONDS = 1.0  # the time-out; the simulator answers in milliseconds unless it is told otherwise


@pytest.fixture(scope="session")
def bank_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BankProcess]:
    with BankProcess(tmp_path_factory.mktemp("bank")) as bank:
        yield bank


@pytest.fixture
def bank(bank_process: BankProcess) -> BankProcess:
    bank_process.behave()
    return bank_process


@pytest.fixture
def settlement_database(database: Callable[[str], Database]) -> Database:
    return database("settlement")


@pytest.fixture
async def pool(settlement_database: Database) -> AsyncIterator[asyncpg.Pool]:
    settings = PostgresSettings.model_validate({"url": settlement_database.app_url})
    async with postgres.pool(settings, application_name="tests") as pool:
        yield pool


@pytest.fixture
async def generic(bank: BankProcess) -> AsyncIterator[GenericBank]:
    async with httpx.AsyncClient(base_url=bank.url, trust_env=False) as client:
        yield GenericBank(client, secret=SECRET.encode(), timeout_seconds=BANK_SECONDS, clock=SystemClock())


@dataclass(frozen=True, slots=True)
class House:
    """Settlement's write paths, as the tests move them by hand."""

    pool: asyncpg.Pool
    instructor: Instructor

    async def take_in(self, *requests: tuple[str, Request]) -> None:
        async with self.pool.acquire() as conn:
            await take_in(conn, requests, rule=RULE)

    async def turn(self) -> int:
        """Make every call that is open, as if the time of all timers had come."""
        await self.pool.execute("update settlement_timer set due_at = now()")
        return await self.instructor.settle_due()

    async def turn_until_final(self, most: int = 10) -> None:
        """Turn until nothing is open. Raises AssertionError after `most` turns."""
        for _ in range(most):
            if not await self.turn():
                return
        raise AssertionError(f"still open after {most} turns")

    async def status(self, order_no: str) -> str:
        return await self.pool.fetchval("select status from settlement where order_no = $1", order_no)

    async def published(self, order_no: str) -> list[str]:
        """Event ids in the outbox, without the instruction's id, in order."""
        rows = await self.pool.fetch("select event_id from outbox where order_no = $1 order by id", order_no)
        return [row["event_id"].split(":", 1)[1] for row in rows]

    async def payouts(self, order_no: str) -> dict[str, str]:
        rows = await self.pool.fetch("select receiver, status from payout where order_no = $1", order_no)
        return {row["receiver"]: row["status"] for row in rows}


def paced(pool: asyncpg.Pool, generic: GenericBank, accounts: Mapping[str, str] = RULE.accounts) -> Instructor:
    pace = Pace(
        lease=timedelta(seconds=60),
        first_query=timedelta(seconds=30),
        longest_query=timedelta(hours=1),
        resend_within=timedelta(hours=24),
        calls_at_once=16,
    )
    return Instructor(pool, generic, accounts=accounts, clock=SystemClock(), pace=pace, health=Health())


@pytest.fixture
def house(pool: asyncpg.Pool, generic: GenericBank) -> House:
    return House(pool, paced(pool, generic))


@pytest.fixture
def order_no() -> str:
    return new_order_no(datetime.now(UTC))


def request_for(order_no: str, *, amount_fen: int = 9_900, part: int = 1, attempt: int = 1) -> tuple[str, Request]:
    """An event id and what order-core asks for with it."""
    request = Request(
        order_no=order_no,
        instruction_id=f"{order_no}_P{part}",
        channel="wechat",
        transaction_ids=("4200001",),
        amount_fen=amount_fen,
        requested_at=datetime.now(UTC),
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        attempt=attempt,
    )
    return f"{request.instruction_id}:requested" + (f":{attempt}" if attempt > 1 else ""), request


async def until(holds: Callable[[], bool], *, seconds: float = 20) -> None:
    """Wait for something outside this process. Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while True:
            if holds():
                return
            await asyncio.sleep(0.01)  # between two looks
