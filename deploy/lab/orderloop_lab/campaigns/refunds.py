"""Money back in every way there is, while the bank settles: through the real channel's steps, judged by its ledger.

Parts and the whole, of the order's payment and of a superfluous second one, ended by the channel as SUCCESS, ABNORMAL
or CLOSED, asked for before, while and after the bank pays out. Refusals are fine; money that goes out twice is not.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import asyncpg
import httpx
from aiokafka import AIOKafkaProducer
from rich.progress import Progress

from orderloop import kafka
from orderloop.money import fen
from orderloop.settings import KafkaSettings
from orderloop_lab import invariants
from orderloop_lab.errors import LabError
from orderloop_lab.progress import step
from orderloop_lab.system import Lab

from .crash_lives import label
from .payments_plan import digest
from .refunds_plan import AMOUNT, Story, plan, plan_digest
from .verdict import Verdict

PURPOSE = "partial, full, superfluous, abnormal and closed refunds that race the settlement"

_PROCESSES = ("wechat", "alipay", "payment-callback", "bank", "settlement", "order-core", "order-core-relay")
_CHECKED = ("I1", "I2", "I3", "I4", "I5", "I6", "I7", "I9", "I11", "I14")
_AT_ONCE = 16
_PATIENCE_SECONDS = 60.0  # without any news
_LOOK_SECONDS = 0.1
_ATTEMPTS = 50
_ACCEPTED = " 202"
_REST = """
    select (select count(*) from outbox) + (select count(*) from refund where state in ('asked', 'held'))
           + (select count(*) from instruction where state in ('sent', 'processing')) as left,
           (select count(*) from order_log) as changes
"""
# `spoken_for_fen` is read from the log, as it stood when the bank was asked for what it then paid.
_PAYMENTS = """
    select p.order_no, o.status, p.transaction_id, p.applied, p.amount_fen, p.refunding_fen, p.refunded_fen,
           coalesce(sum(r.amount_fen) filter (where r.state = 'success'), 0)::bigint as back_fen,
           coalesce(sum(r.amount_fen) filter (where r.state in ('held', 'asked', 'abnormal')), 0)::bigint as away_fen,
           coalesce(s.amount_fen, 0)::bigint as settled_fen, coalesce(s.spoken_for_fen, 0)::bigint as spoken_for_fen
    from payment p
    left join refund r using (order_no, channel, transaction_id)
    join orders o on o.order_no = p.order_no
    left join lateral (
        select sum(i.amount_fen) as amount_fen, sum(asked.spoken_for_fen) as spoken_for_fen
        from instruction i
        cross join lateral (
            select max(version) as version from order_log l
            where l.order_no = i.order_no and l.event in ('receipt_confirmed', 'settlement_retried')
              and l.detail ->> 'instruction_id' = i.instruction_id
        ) at
        cross join lateral (
            select sum((last.detail ->> 'amount_fen')::bigint) as spoken_for_fen
            from (
                select distinct on (l.detail ->> 'out_refund_no') l.detail
                from order_log l
                where l.order_no = i.order_no and l.version < at.version and l.event like '%refund%'
                  and l.detail ->> 'transaction_id' = p.transaction_id
                order by l.detail ->> 'out_refund_no', l.version desc
            ) last
            where last.detail ->> 'state' <> 'closed'
        ) asked
        where i.order_no = p.order_no and i.state = 'success' and p.applied
    ) s on true
    group by p.order_no, o.status, p.transaction_id, p.applied, p.amount_fen, p.refunding_fen, p.refunded_fen,
             s.amount_fen, s.spoken_for_fen
"""


@dataclass(frozen=True, slots=True)
class Money:
    """Of one payment: what order-core says, and what the channel and the bank did."""

    order_no: str
    status: str
    transaction_id: str
    applied: bool
    amount_fen: int
    refunding_fen: int
    refunded_fen: int
    back_fen: int  # of refunds that succeeded
    away_fen: int  # of refunds without a last word
    settled_fen: int  # by the bank's word to order-core
    spoken_for_fen: int  # back or on its way back when the bank was asked to settle
    channel_fen: int  # given back, by the channel's ledger
    bank_fen: int  # paid out, by the bank's ledger

    def violations(self) -> Iterator[str]:
        what = f"order {self.order_no}, transaction {self.transaction_id}:"
        if self.back_fen != self.channel_fen:
            yield f"{what} {self.back_fen} fen are refunded here, {self.channel_fen} at the channel"
        if self.refunded_fen != self.back_fen:
            yield f"{what} {self.refunded_fen} fen are said to be refunded, its refunds say {self.back_fen}"
        if self.amount_fen - self.back_fen - self.away_fen < 0:
            yield f"{what} {self.back_fen + self.away_fen} fen of {self.amount_fen} go back"
        if self.settled_fen != self.bank_fen:
            yield f"{what} {self.settled_fen} fen are settled here, {self.bank_fen} at the bank"
        # A refund that is asked for later is another matter: the merchant pays for that, and knows.
        if self.settled_fen and self.settled_fen != self.amount_fen - self.spoken_for_fen:
            yield f"{what} {self.settled_fen} fen of {self.amount_fen} were settled, {self.spoken_for_fen} gone back"
        if self.applied and (self.status == "refunded") != (self.back_fen == self.amount_fen):
            yield f"{what} the order is {self.status}, {self.back_fen} fen of {self.amount_fen} are back"


async def campaign(folder: Path, *, n: int, seed: int, progress: Progress) -> Verdict:
    """In a lab of its own in `folder`, which is stopped again."""
    stories = plan(n, seed=seed)
    async with Lab(folder, environment={}, only=_PROCESSES, progress=progress) as lab:
        async with _street(lab) as street:
            with step(progress, "Stories", total=n) as bar:

                async def one(story: Story) -> list[str]:
                    async with street.limit:
                        answered = await street.live(story)
                    progress.update(bar, advance=1)
                    return answered

                answers = await asyncio.gather(*map(one, stories))
            resting = await street.until_rest()
            money = await street.money()
        report = await invariants.check(invariants.World.of(lab, simulators=("wechat", "alipay", "bank")))
    # What somebody asks for first is always possible: who refuses everything would be right about all money.
    refused = [
        f"story {story.external_order_id}: the first act was answered {answered[0]}"
        for story, answered in zip(stories, answers, strict=True)
        if not answered[0].endswith(_ACCEPTED)
    ]
    unrest = [] if resting else [f"after {_PATIENCE_SECONDS:.0f} s without news something is still under way"]
    return Verdict(
        figures={
            **{f"answered {answer}": count for answer, count in sorted(Counter(chain(*answers)).items())},
            **{f"orders {status}": count for status, count in sorted(Counter(one.status for one in money).items())},
            "fen refunded": sum(one.back_fen for one in money),
            "fen settled": sum(one.settled_fen for one in money),
            "looked at by the invariants": " ".join(f"{name}:{count}" for name, count in report.checked.items()),
        },
        plan=plan_digest(stories),
        finals=digest(sorted((one.back_fen + one.away_fen <= one.amount_fen, one.applied) for one in money)),
        violations=[*refused, *unrest, *(v for one in money for v in one.violations()), *report.objections(*_CHECKED)],
    )


@dataclass(frozen=True, slots=True)
class _Street:
    """Where customers, the back office, a foreign warehouse, the channel and the bank meet."""

    urls: Mapping[str, str]
    prefix: str
    http: httpx.AsyncClient
    producer: AIOKafkaProducer
    core: asyncpg.Connection
    others: Sequence[asyncpg.Connection]  # whose outboxes count too
    limit: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_AT_ONCE))

    async def live(self, story: Story) -> list[str]:
        """One order's story, act after act, each as soon as the one before is answered; how they were answered."""
        order_no = await self._paid(story)
        answers: list[str] = []
        for number, act in enumerate(story.acts):
            route = act.what if act.what == "confirm-receipt" else "refund"
            body: dict[str, Any] = {} if route == "confirm-receipt" else {"reason": "sent back"}
            if act.amount_fen:
                body["amount_fen"] = act.amount_fen
            if act.what == "refund the second payment":
                body |= await self._second(order_no)
            answer = await self._ask(
                f"{self.urls['order-core']}/v1/orders/{order_no}/{route}", body, key=f"{order_no}-{number}"
            )
            said = answer.json()
            answers.append(f"{route} {said.get('reason', answer.status_code)}")
        return answers

    async def _paid(self, story: Story) -> str:
        wish = {
            "source": "campaign",
            "external_order_id": story.external_order_id,
            "amount_fen": AMOUNT,
            "items": [{"sku": "LAMP-1", "name": "落地灯", "quantity": 1}],
            "receiver": {"name": "赵先生", "phone": "13800138000", "region": "浙江", "address": "人民路 1 号"},
        }
        order_no = (await self._ask(f"{self.urls['order-core']}/v1/orders", wish)).json()["order_no"]
        for number, word in enumerate(story.words, 1):
            await self._ask(
                f"{self.urls['wechat']}/sim/refund-plan", {"out_refund_no": f"{order_no}_R{number}", "status": word}
            )
        await self._ask(f"{self.urls['bank']}/sim/faults", {"order_no": order_no, "outcome": story.bank})
        for channel in ("wechat", "alipay")[: 1 + story.paid_twice]:
            await self._ask(f"{self.urls[channel]}/sim/pay", {"out_trade_no": order_no, "amount_fen": AMOUNT})
        if story.labelled:
            value, headers = (told := label(story.external_order_id, foreign=True)).record(order_no)
            await self.producer.send_and_wait(self.prefix + told.topic, value, key=order_no.encode(), headers=headers)
        await self._until_there(order_no, 1 + story.paid_twice, "shipped" if story.labelled else "paid")
        return order_no

    async def _until_there(self, order_no: str, payments: int, status: str) -> None:
        """The order is `status`, and knows of so many payments."""
        for _ in range(round(_PATIENCE_SECONDS / _LOOK_SECONDS)):
            answer = await self.http.get(f"{self.urls['order-core']}/v1/orders/{order_no}/timeline")
            story = answer.json()
            if len(story["payments"]) == payments and story["order"]["status"] == status:
                return
            await asyncio.sleep(_LOOK_SECONDS)
        raise LabError(f"Order {order_no} does not become {status}: payment-callback's log may say why.")

    async def _second(self, order_no: str) -> dict[str, str]:
        """The payment that came too late to be the order's."""
        story = (await self.http.get(f"{self.urls['order-core']}/v1/orders/{order_no}/timeline")).json()
        late = next(payment for payment in story["payments"] if not payment["applied"])
        return {"channel": late["channel"], "transaction_id": late["transaction_id"]}

    async def _ask(self, url: str, body: Mapping[str, Any], *, key: str = "") -> httpx.Response:
        """Until it is answered for good, under the same key."""
        for _ in range(_ATTEMPTS):
            answer = await self.http.post(url, json=body, headers={"Idempotency-Key": key} if key else {})
            running = answer.status_code == 409 and "still-running" in answer.text
            if answer.is_success or (answer.status_code == 409 and not running):
                return answer
            if not running:
                raise LabError(f"{url} answers {answer.status_code} {answer.text[:200]}")
            await asyncio.sleep(_LOOK_SECONDS)
        raise LabError(f"{url} is still busy with a request of ours: order-core's log may say why.")

    async def until_rest(self) -> bool:
        """False when nothing has moved for long and something is still to come."""
        changes, moved = -1, time.monotonic()
        while True:
            row = await self.core.fetchrow(_REST)
            staged = [await conn.fetchval("select exists (select from outbox)") for conn in self.others]
            if row is not None and row["left"] == 0 and not any(staged):
                return True
            if row is not None and row["changes"] != changes:
                changes, moved = row["changes"], time.monotonic()
            if time.monotonic() - moved > _PATIENCE_SECONDS:
                return False
            await asyncio.sleep(_LOOK_SECONDS)

    async def money(self) -> list[Money]:
        back: Counter[str] = Counter()
        for refund in (await self._ledger("wechat"))["refunds"]:
            if refund["refund_status"] == "SUCCESS":
                back[refund["transaction_id"]] += refund["amount"]["refund"]
        for refund in (await self._ledger("alipay"))["refunds"]:
            back[refund["trade_no"]] += fen(refund["refund_amount"])
        out: Counter[str] = Counter()
        for paid in (await self._ledger("bank"))["paid"]:
            out[paid["order_no"]] += paid["amount_fen"]
        return [
            Money(
                **row,
                channel_fen=back[row["transaction_id"]],
                bank_fen=out[row["order_no"]] if row["applied"] else 0,
            )
            for row in await self.core.fetch(_PAYMENTS)
        ]

    async def _ledger(self, channel: str) -> Any:
        return (await self.http.get(f"{self.urls[channel]}/sim/ledger")).raise_for_status().json()


@asynccontextmanager
async def _street(lab: Lab) -> AsyncGenerator[_Street]:
    around = lab.surroundings
    settings = KafkaSettings.model_validate({"bootstrap": around.backing.kafka_bootstrap})
    async with AsyncExitStack() as stack:
        connections: list[asyncpg.Connection] = []
        for database in ("order_core", "payment_callback", "settlement"):
            connections.append(await lab.connect(database))
            stack.push_async_callback(connections[-1].close)
        http = await stack.enter_async_context(httpx.AsyncClient(timeout=60, trust_env=False))
        producer = await stack.enter_async_context(kafka.producing(kafka.producer(settings, client_id="campaign")))
        yield _Street(lab.urls, around.prefix, http, producer, connections[0], connections[1:])
