"""The order's life as a model: whatever comes in whatever order, the money is right and the books agree.

Pure code first (hypothesis plays it thousands of times), then the same stories on a real database.
"""

import asyncio
import itertools
import random
from collections.abc import Iterator
from contextlib import suppress
from itertools import product

import asyncpg
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from msgspec.structs import replace

from order_core import money
from order_core.apply import CommandRefused, apply
from order_core.decide import decide
from order_core.money import Payment, Refund, RefundState
from order_core.orders import (
    CatchUp,
    Change,
    Closing,
    Dismiss,
    GiveUpRefund,
    Incoming,
    Instruction,
    InstructionState,
    Order,
    Parked,
    Refused,
    Resettle,
    Revive,
    Waiting,
)
from order_core.states import TRANSITIONS, Event, Status
from orderloop.events import CloseOutcome, ParcelStatus, PaymentNotified, SettlementStatus
from orderloop_lab.invariants import World, check
from tests.support.databases import Database
from tests.support.orders import (
    AMOUNT,
    NOW,
    close_asked,
    close_told,
    confirmed,
    labelled,
    paid,
    refund_asked,
    refund_told,
    reserved,
    settled,
    shipped,
    tracked,
)

ORDER_NO = f"{NOW:%y%m%d%H%M%S}AAAAAAAAAAAA"
WORDS = ("SUCCESS", "ABNORMAL", "CLOSED")
_numbers = itertools.count()


def command(body: object, order_no: str = ORDER_NO) -> Incoming:
    return Incoming(order_no, f"command:{next(_numbers)}", "command", "ops:li", NOW, body)  # type: ignore[arg-type]


class Life(RuleBasedStateMachine):
    """One order. The model's only memory of money is what the world outside would know: what it was asked to do."""

    def __init__(self) -> None:
        super().__init__()
        self.order = Order(ORDER_NO, Status.PENDING, 1, AMOUNT, "CNY")
        self.taken: dict[tuple[str, str], str] = {}
        self.seen: set[str] = set()
        self.asked: dict[str, tuple[int, str]] = {}  # out_refund_no -> amount, transaction
        self.instructed: dict[str, int] = {}
        self.paid_back = 0
        self.bank_paid: set[str] = set()

    def tell(self, event: Incoming) -> None:
        """As the write path does: applied once, then what follows from it."""
        if event.event_id in self.seen:
            return
        outcome = decide(self.order, event, taken=self.taken)
        match outcome:
            case Change():
                self.seen.add(event.event_id)
                assert outcome.after.version == self.order.version + 1
                assert event.body.__class__ is not CatchUp or outcome.after.status is not self.order.status
                self.order = outcome.after
                for one in (*self.order.payments, *self.order.refunds):
                    if isinstance(one, Refund) or one.applied:
                        self.taken[one.transaction] = ORDER_NO
                for _, said in outcome.consequences:
                    self.hear(said)
                for following in outcome.follow:
                    before = self.order.version
                    self.tell(following)
                    assert self.order.version > before, "what follows always happens"
            case Parked():
                if outcome.after is not None:
                    self.order = outcome.after
                if isinstance(event.body, PaymentNotified) and outcome.kind != "transaction_reused":
                    body = event.body
                    noted = Payment(
                        body.channel,
                        body.transaction_id,
                        body.mchid,
                        body.amount_fen,
                        body.currency,
                        NOW,
                        applied=False,
                    )
                    if noted.transaction not in {p.transaction for p in self.order.payments}:
                        self.order = replace(self.order, payments=(*self.order.payments, noted))
            case Waiting() | Refused():
                pass

    def note(self, body: PaymentNotified) -> None:
        """Money that could not be applied stands beside its order."""
        if (body.channel, body.transaction_id) not in {p.transaction for p in self.order.payments}:
            noted = Payment(body.channel, body.transaction_id, body.mchid, body.amount_fen, body.currency, NOW, False)
            self.order = replace(self.order, payments=(*self.order.payments, noted))

    def hear(self, said: object) -> None:
        match said.__class__.__name__:
            case "RefundRequested":
                assert said.out_refund_no not in self.asked, "a refund is asked for once"  # type: ignore[attr-defined]
                self.asked[said.out_refund_no] = (said.refund_fen, said.transaction_id)  # type: ignore[attr-defined]
            case "SettlementRequested":
                self.instructed[said.instruction_id] = said.amount_fen  # type: ignore[attr-defined]

    @rule(n=st.integers(1, 3))
    def pay(self, n: int) -> None:
        self.tell(paid(ORDER_NO, f"t{n}"))

    @rule()
    def pay_too_little(self) -> None:
        self.tell(paid(ORDER_NO, "small", amount_fen=1))

    @rule()
    def ship(self) -> None:
        self.tell(shipped(ORDER_NO))

    @rule(n=st.integers(1, 2))
    def label(self, n: int) -> None:
        self.tell(labelled(ORDER_NO, f"w{n}"))

    @rule(n=st.integers(1, 2), status=st.sampled_from([ParcelStatus.DELIVERED, ParcelStatus.RETURNED]))
    def scan(self, n: int, status: ParcelStatus) -> None:
        self.tell(tracked(ORDER_NO, status, f"w{n}"))

    @rule()
    def confirm(self) -> None:
        self.tell(confirmed(ORDER_NO))

    @rule(status=st.sampled_from(SettlementStatus), attempt=st.integers(1, 2))
    def settle(self, status: SettlementStatus, attempt: int) -> None:
        for instruction_id, amount_fen in list(self.instructed.items()):
            number = int(instruction_id.rpartition("_P")[2])
            self.tell(settled(ORDER_NO, status, attempt=attempt, amount_fen=amount_fen, instruction=number))

    @rule()
    def settle_again(self) -> None:
        self.tell(command(Resettle()))

    @rule(share=st.sampled_from([None, 1, 900, 5000, AMOUNT]), n=st.sampled_from([None, "t1", "t2", "small"]))
    def refund(self, share: int | None, n: str | None) -> None:
        self.tell(refund_asked(ORDER_NO, share, transaction=("wechat", n) if n else None, key=f"{next(_numbers)}"))

    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        if self.asked:
            self.tell(command(GiveUpRefund(data.draw(st.sampled_from(sorted(self.asked))), "nobody answers")))

    @rule(data=st.data(), word=st.sampled_from(WORDS))
    def channel_speaks(self, data: st.DataObject, word: str) -> None:
        if self.asked:
            number = data.draw(st.sampled_from(sorted(self.asked)))
            amount_fen, transaction_id = self.asked[number]
            n = int(number.rpartition("_R")[2])
            self.tell(refund_told(ORDER_NO, n, word, amount_fen=amount_fen, transaction_id=transaction_id))

    @rule()
    def close(self) -> None:
        self.tell(command(close_asked(ORDER_NO).body))

    @rule(result=st.sampled_from(CloseOutcome), n=st.integers(1, 3))
    def channels_answer(self, result: CloseOutcome, n: int) -> None:
        self.tell(close_told(ORDER_NO, result, n=n))

    @rule(n=st.integers(1, 3))
    def revive(self, n: int) -> None:
        self.tell(command(Revive(paid(ORDER_NO, f"t{n}").body)))  # type: ignore[arg-type]

    @rule()
    def dismiss(self) -> None:
        self.tell(command(Dismiss("paid_twice", "looked")))

    @invariant()
    def no_more_goes_back_than_came(self) -> None:
        for payment in self.order.payments:
            assert 0 <= money.left(payment, self.order.refunds) <= payment.amount_fen

    @invariant()
    def one_payment_at_most_is_applied(self) -> None:
        assert sum(payment.applied for payment in self.order.payments) <= 1

    @invariant()
    def what_is_refunding_goes_back_whole_and_nothing_else_is(self) -> None:
        payment = money.applied(self.order.payments)
        if payment is None:
            return
        back, on_its_way = money.refunded(payment, self.order.refunds), money.going_back(payment, self.order.refunds)
        assert (self.order.status is Status.REFUNDED) == (back == payment.amount_fen)
        if self.order.status is Status.REFUNDING:
            assert on_its_way == payment.amount_fen

    @invariant()
    def nothing_travels_or_settles_unpaid(self) -> None:
        if self.order.status not in {Status.PENDING, Status.CLOSED, Status.REFUNDING, Status.REFUNDED}:
            payment = money.applied(self.order.payments)
            assert payment is not None
            assert (payment.amount_fen, payment.currency) == (AMOUNT, "CNY")
        if self.order.status is Status.COMPLETED:
            assert any(i.state is InstructionState.SUCCESS for i in self.order.instructions)

    @invariant()
    def what_waits_for_the_bank_waits_only_while_the_bank_works(self) -> None:
        if any(refund.state is RefundState.HELD for refund in self.order.refunds):
            assert any(instruction.at_the_bank for instruction in self.order.instructions)

    @invariant()
    def what_was_asked_to_settle_was_never_more_than_was_left(self) -> None:
        assert all(0 < amount <= AMOUNT for amount in self.instructed.values())


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=3 * settings().max_examples, stateful_step_count=40)


def orders() -> Iterator[Order]:
    """An order in every status, with every kind of thing hanging on it."""
    payment = Payment("wechat", "4200001", "1900000001", AMOUNT, "CNY", NOW, applied=True)
    late = replace(payment, applied=False)
    for status, state, instructed in product(Status, RefundState, [None, *InstructionState]):
        is_paid = status not in {Status.PENDING, Status.CLOSED}
        yield Order(
            ORDER_NO,
            status,
            7,
            AMOUNT,
            "CNY",
            before_refund=Status.PAID,
            payments=(payment if is_paid else late,),
            refunds=(Refund(f"{ORDER_NO}_R1", "wechat", "4200001", AMOUNT, state, whole=True, reason="x"),),
            instructions=(Instruction(f"{ORDER_NO}_P1", AMOUNT, 1, instructed),) if instructed else (),
            closing=Closing(1, open=True),
        )


def everything() -> list[Incoming]:
    return [
        paid(ORDER_NO),
        paid(ORDER_NO, "2"),
        labelled(ORDER_NO),
        tracked(ORDER_NO),
        shipped(ORDER_NO),
        confirmed(ORDER_NO),
        *(settled(ORDER_NO, status) for status in SettlementStatus),
        *(close_told(ORDER_NO, result) for result in CloseOutcome),
        *(refund_told(ORDER_NO, 1, word) for word in (*WORDS, "PROCESSING")),
        refund_asked(ORDER_NO),
        refund_asked(ORDER_NO, transaction=("wechat", "4200001")),
        close_asked(ORDER_NO),
        command(Resettle()),
        command(GiveUpRefund(f"{ORDER_NO}_R1", "x")),
        command(Revive(paid(ORDER_NO).body)),  # type: ignore[arg-type]
        command(Dismiss("x", "y")),
        *(command(CatchUp(event)) for event in Event),
    ]


def test_whatever_meets_an_order_there_is_an_answer_and_the_table_agrees() -> None:
    for order, event in product(orders(), everything()):
        outcome = decide(order, event, taken={})
        if isinstance(outcome, Change):
            assert outcome.event in TRANSITIONS[order.status]
            assert outcome.after.version == order.version + 1
        elif event.is_command:
            assert isinstance(outcome, Refused)
        else:
            assert isinstance(outcome, (Parked, Waiting))


def test_a_channels_word_after_its_last_word_changes_nothing() -> None:
    for order in orders():
        if order.refunds[0].state in {RefundState.SUCCESS, RefundState.CLOSED}:
            for word in WORDS:
                assert isinstance(decide(order, refund_told(ORDER_NO, 1, word), taken={}), Parked)


async def _campaign(database: Database, seed: int) -> list[str]:
    """Refunds of every kind race settlements, notices come twice and in any order; returns what is wrong."""
    chance = random.Random(seed)
    conn = await asyncpg.connect(database.app_url)
    try:
        for n in range(6):
            order_no, spare = [await reserved(conn, f"{seed}-{n}-{which}") for which in "ab"]
            for batch in _story(chance, order_no, spare):
                await _told(conn, batch)
        wrong = [
            f"{row['order_no']}: {row['left']} fen are left of {row['transaction_id']}"
            for row in await conn.fetch(
                """select p.order_no, p.transaction_id,
                          p.amount_fen - coalesce(sum(r.amount_fen) filter (where r.state <> 'closed'), 0) as left,
                          p.amount_fen - p.refunding_fen - p.refunded_fen as said
                   from payment p left join refund r using (order_no, channel, transaction_id)
                   group by p.order_no, p.channel, p.transaction_id"""
            )
            if row["left"] < 0 or row["left"] != row["said"]
        ]
    finally:
        await conn.close()
    report = await check(World({"order_core": database.app_url}))
    return [*wrong, *map(str, report.violations)]


def _story(chance: random.Random, order_no: str, spare: str) -> Iterator[list[Incoming]]:
    """Commands alone, events in batches of any size, mostly in the order of life. `spare` is an unpaid order, to which
    somebody links the second payment."""
    first, second = f"{order_no[-6:]}1", f"{order_no[-6:]}2"
    yield [paid(order_no, first)]
    events: list[Incoming] = [
        labelled(order_no),
        tracked(order_no),
        confirmed(order_no),
        refund_asked(order_no, chance.choice([None, 900, 5000]), key="1"),
        refund_asked(order_no, chance.choice([None, 4000]), key="2"),
        paid(order_no, second),
        paid(spare, second),
        refund_asked(order_no, transaction=("wechat", second), key="3"),
        *(command(GiveUpRefund(f"{order_no}_R{n}", "nobody answers"), order_no) for n in (1, 2, 3)),
        *(
            settled(order_no, status, attempt=attempt, amount_fen=amount_fen)
            for status, attempt, amount_fen in product(SettlementStatus, (1, 2), (AMOUNT, AMOUNT - 900))
            if chance.random() < 0.4
        ),
        *(
            refund_told(order_no, n, word, amount_fen=amount_fen, transaction_id=transaction_id)
            for n, word, amount_fen in product((1, 2, 3), WORDS, (AMOUNT, 900, 5000, 4000, 4900, 9000))
            for transaction_id in (first, second)
            if chance.random() < 0.5
        ),
    ]
    events += chance.sample(events, k=len(events) // 4)  # at least once means now and then twice
    ranks = {id(event): n * 0.3 + chance.uniform(0, len(events)) for n, event in enumerate(events)}
    events.sort(key=lambda event: ranks[id(event)])
    batch: list[Incoming] = []
    for event in events:
        if event.is_command or chance.random() < 0.3:
            yield batch
            batch = []
        if event.is_command:
            yield [event]
        else:
            batch.append(event)
    yield batch


async def _told(conn: asyncpg.Connection, batch: list[Incoming]) -> None:
    with suppress(CommandRefused):
        async with conn.transaction():
            await apply(conn, batch, now=NOW)


@pytest.mark.parametrize("seed", range(8))
def test_a_campaign_of_refunds_leaves_whole_books(order_core: Database, seed: int) -> None:
    assert asyncio.run(_campaign(order_core, seed)) == []


def test_the_campaigns_stories_hold_what_they_are_told_for(order_core: Database) -> None:
    """A campaign that never meets a held refund or an abnormal one proves nothing about them."""
    for seed in range(100, 108):
        asyncio.run(_campaign(order_core, seed))

    async def met() -> set[str]:
        conn = await asyncpg.connect(order_core.app_url)
        try:
            return {
                row["what"]
                for row in await conn.fetch("""select event as what from order_log union
                select kind from anomaly union select 'refund ' || state from refund""")
            }
        finally:
            await conn.close()

    assert asyncio.run(met()) >= {
        *(f"refund {state}" for state in RefundState if state is not RefundState.HELD),
        *(event for event in Event if "refund" in event),
        "settlement_succeeded",
        "settlement_failed",
        "paid_twice",
        "transaction_reused",
        "refund_failed",
        "refund_contradiction",
        "refund_differs",
    }
