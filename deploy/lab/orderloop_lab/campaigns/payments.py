"""Payments under everything that happens to callbacks, while payment-callback is killed at each of its steps.

Nothing but callbacks pays here: the query that looks for missing ones is put off, so whatever is paid at the end was
told by a callback that survived.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import httpx
from rich.progress import Progress

from orderloop_lab import invariants
from orderloop_lab.errors import LabError
from orderloop_lab.progress import step
from orderloop_lab.system import Lab

from . import payments_books
from .payments_plan import Kill, Payment, Plan, plan
from .verdict import Verdict

PURPOSE = "callbacks lost, repeated, late, forged; payment-callback killed at each of its steps"
SOURCE = "campaign"
WHO = "payment-callback"

_PROCESSES = ("wechat", WHO, "order-core", "order-core-relay")
# Nothing is shipped here (I4), and the others ask the bank or the warehouse.
_CHECKED = ("I1", "I2", "I3", "I5", "I6", "I7", "I9", "I14")
_SETTINGS: Mapping[str, dict[str, str]] = {
    # A day of retries in seven minutes: the first within a second, and enough left after several restarts.
    "wechat": {"SIM_TIME_FACTOR": "200"},
    WHO: {
        "ORDERLOOP_EVIDENCE_TIME_FACTOR": "1",
        "ORDERLOOP_EVIDENCE_FIRST_MINUTES": "[1440]",
        "ORDERLOOP_TRACING_SAMPLE_RATIO": "0",
    },
    "order-core": {"ORDERLOOP_TRACING_SAMPLE_RATIO": "0"},
    "order-core-relay": {"ORDERLOOP_TRACING_SAMPLE_RATIO": "0"},
}
_AT_ONCE = 16  # requests in flight; the simulator has one core, and signs
_DEATH_SECONDS = 60.0
_SILENCE_SECONDS = 120.0  # longer than the pauses between the retries that a run can come to
_LOOK_SECONDS = 0.5
_ATTEMPTS = 20


async def campaign(folder: Path, *, n: int, seed: int, progress: Progress) -> Verdict:
    """In a lab of its own in `folder`, which is stopped again."""
    settings = {**_SETTINGS, "wechat": {**_SETTINGS["wechat"], "SIM_SEED": str(seed)}}
    async with Lab(folder, environment={}, settings=settings, only=_PROCESSES, progress=progress) as lab:
        verdict = await run(lab, plan(n, seed=seed), source=SOURCE, progress=progress)
        with step(progress, "Invariants"):
            report = await invariants.check(invariants.World.of(lab, simulators=("wechat",)))
    verdict.violations += report.objections(*_CHECKED)
    verdict.figures["looked at by the invariants"] = " ".join(f"{one}:{n}" for one, n in report.checked.items())
    return verdict


async def run(lab: Lab, plan: Plan, *, source: str, progress: Progress) -> Verdict:
    """The plan on a lab that is up, under a source of its own; judged when nothing moves any more."""
    violations: list[str] = []
    async with _watching(lab, plan, source, progress) as watch:
        shop = _Shop(watch.http, lab.urls, source, asyncio.Semaphore(_AT_ONCE))
        killing = progress.add_task(f"{WHO} killed", total=len(plan.kills) or 1, completed=int(not plan.kills))
        for kill, payments in plan.stretches():
            if kill and not await _pay_until_it_dies(lab, shop, kill, payments, watch):
                violations.append(f"{WHO} did not come to {kill.failpoint} {kill.nth} times")
            if kill:
                progress.update(killing, advance=1, description=f"{WHO} killed {kill.failpoint.partition('.')[2]}")
            else:
                await shop.pay(payments, watch)
        if not await watch.until_settled():
            violations.append(f"after {_SILENCE_SECONDS:.0f} s without news not everything had arrived: {watch.state}")
        restless = watch.seconds
    books = await payments_books.read(lab, source)
    kills = Counter(kill.failpoint.partition(".")[2] for kill in plan.kills)
    return Verdict(
        figures={
            **books.figures,
            "kills": ", ".join(f"{count} {name}" for name, count in sorted(kills.items())) or "none",
            "from first payment to rest": f"{restless:.1f} s",
        },
        plan=plan.digest,
        finals=books.digest,
        violations=violations + list(books.violations(plan)),
    )


async def _pay_until_it_dies(lab: Lab, shop: "_Shop", kill: Kill, payments: Sequence[Payment], watch: "_Watch") -> bool:
    """Payments go on while payment-callback is dead and comes back. Whether it died by the failpoint."""
    with suppress(LabError):  # repeated callbacks may kill it before it is seen to be ready
        await lab.restart(WHO, {"FAILPOINT": f"{kill.failpoint}:kill@{kill.nth}"})
    paying = asyncio.create_task(shop.pay(payments, watch))
    try:
        died = await lab.supervisor.wait_until_ended(WHO, _DEATH_SECONDS)
        await lab.restart(WHO)
        await paying
    finally:
        paying.cancel()
    return died


async def _ask(http: httpx.AsyncClient, url: str, body: Mapping[str, Any] | None = None) -> Any:
    """The same request until it is answered: a server may close an idle connection just as it is used again."""
    for attempt in range(_ATTEMPTS):
        with suppress(httpx.TransportError):
            answer = await http.request("GET" if body is None else "POST", url, json=body)
            # an earlier try reached the channel, only its answer did not reach us
            if answer.is_success or "ORDERPAID" in answer.text:
                return answer.json()
            if answer.status_code < 500:
                raise LabError(f"{url} refuses: {answer.text[:200]}")
        await asyncio.sleep(_LOOK_SECONDS * attempt)
    raise LabError(f"{url} does not answer: the logs are beside the campaign's state.")


@dataclass(frozen=True, slots=True)
class _Shop:
    """Reserves and has its customers pay, or strangers say that they did."""

    http: httpx.AsyncClient
    urls: Mapping[str, str]
    source: str
    limit: asyncio.Semaphore

    async def pay(self, payments: Sequence[Payment], watch: "_Watch") -> None:
        async def one(payment: Payment) -> None:
            async with self.limit:
                await self._sell(payment)
                watch.made += payment.paid

        await asyncio.gather(*map(one, payments))

    async def _sell(self, payment: Payment) -> None:
        wish = {
            "source": self.source,
            "external_order_id": payment.external_order_id,
            "amount_fen": payment.amount_fen,
            "items": [{"sku": "LAMP-1", "name": "落地灯", "quantity": 1}],
            "receiver": {"name": "赵先生", "phone": "13800138000", "region": "浙江", "address": "人民路 1 号"},
        }
        order_no = (await _ask(self.http, f"{self.urls['order-core']}/v1/orders", wish))["order_no"]
        money: dict[str, Any] = {"out_trade_no": order_no, "amount_fen": payment.amount_fen}
        if payment.paid:
            await _ask(self.http, f"{self.urls['wechat']}/sim/pay", money | {"faults": dict(payment.faults)})
        else:
            await _ask(self.http, f"{self.urls['wechat']}/sim/forge", money)


@dataclass
class _Watch:
    """How far everything is; drawn while it runs."""

    plan: Plan
    source: str
    url: str  # of WeChat's ledger
    http: httpx.AsyncClient
    core: asyncpg.Connection
    callback: asyncpg.Connection
    began: float = field(default_factory=time.monotonic)
    moved: float = field(default_factory=time.monotonic)
    made: int = 0
    following: asyncio.Task[None] | None = None
    state: dict[str, int] = field(default_factory=dict[str, int])

    @property
    def seconds(self) -> float:
        return self.moved - self.began

    @property
    def settled(self) -> bool:
        return self.state == {"paid": self.plan.paid, "notices under way": 0, "staged": 0, "waiting": 0}

    async def look(self) -> None:
        under_way = await _ask(self.http, f"{self.url}/sim/ledger/under-way")
        paid = await self.core.fetchval(
            "select count(*) from orders where source = $1 and status = 'paid'", self.source
        )
        staged = [await conn.fetchval("select count(*) from outbox") for conn in (self.core, self.callback)]
        state: dict[str, int] = {
            "paid": paid or 0,
            "notices under way": under_way["notices"],
            "staged": sum(filter(None, staged)),
            "waiting": await self.core.fetchval("select count(*) from waiting") or 0,
        }
        if state != self.state:
            self.state, self.moved = state, time.monotonic()

    async def follow(self, progress: Progress) -> None:
        made, paid = (
            progress.add_task(text, total=self.plan.paid) for text in ("Paid at WeChat", "Paid at order-core")
        )
        while True:
            await self.look()
            progress.update(made, completed=self.made)
            progress.update(paid, completed=self.state["paid"])
            await asyncio.sleep(_LOOK_SECONDS)

    async def until_settled(self) -> bool:
        """False when nothing has moved for a long time and not everything has arrived."""
        self.moved = time.monotonic()
        while not self.settled:
            if self.following and self.following.done():
                self.following.result()
            if time.monotonic() - self.moved > _SILENCE_SECONDS:
                return False
            await asyncio.sleep(_LOOK_SECONDS / 5)
        return True


@asynccontextmanager
async def _watching(lab: Lab, plan: Plan, source: str, progress: Progress) -> AsyncGenerator[_Watch]:
    core, callback = await lab.connect("order_core"), await lab.connect("payment_callback")
    try:
        async with httpx.AsyncClient(timeout=60, trust_env=False) as http:
            watch = _Watch(plan, source, lab.urls["wechat"], http, core, callback)
            watch.following = asyncio.create_task(watch.follow(progress))
            try:
                yield watch
            finally:
                watch.following.cancel()
                await asyncio.gather(watch.following, return_exceptions=True)
    finally:
        await core.close()
        await callback.close()
