"""A hundred ship requests for one order at once, at two processes of order-core, and Redis goes away among them.

Half of the requests carry one Idempotency-Key, as a client that repeats itself; the others each their own, as many
clicks. The warehouse's own ledger says how often the order was shipped.
"""

import asyncio
import random
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
from redis.asyncio import Redis
from rich.progress import Progress

from orderloop_lab import invariants
from orderloop_lab.backing import valkey
from orderloop_lab.errors import LabError
from orderloop_lab.processes import Command
from orderloop_lab.progress import step
from orderloop_lab.system import Lab

from .payments_plan import digest
from .verdict import Verdict

PURPOSE = "a hundred simultaneous ship requests for one order, at two processes, Redis flushed or killed among them"

REQUESTS = 100
_PROCESSES = ("wechat", "payment-callback", "wms", "order-core", "order-core-relay", "logistics-poller")
_SECOND = "order-core-2"
_CHECKED = ("I1", "I2", "I3", "I4", "I5", "I6", "I7", "I9", "I13", "I14")
_REFUSALS = {"still-running", "order-status-forbids"}
_ARRIVES_SECONDS = 60.0
_LOOK_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Rush:
    """What happens to Redis when so many of an order's requests have been answered."""

    redis: str  # flushed | killed | left alone
    after: int


@dataclass(frozen=True, slots=True)
class Rushed:
    rush: Rush
    order_no: str
    answers: Sequence[httpx.Response]
    shipments: Sequence[str]  # active ones, at the warehouse

    def violations(self) -> Iterator[str]:
        order = f"order {self.order_no}"
        if list(self.shipments) != [f"{self.order_no}_S1"]:
            yield f"{order}: the warehouse has shipped {', '.join(self.shipments) or 'nothing'}"
        accepted = {answer.text for answer in self.answers if answer.status_code == 202}
        if len(accepted) != 1:
            yield f"{order}: {len(accepted)} different answers accept a shipment"
        for answer in self.answers:
            if answer.status_code != 202 and not _is_clear(answer):
                yield f"{order}: {answer.status_code} {answer.text[:200]} is neither accepted nor a clear refusal"


def _is_clear(answer: httpx.Response) -> bool:
    is_problem = answer.headers.get("content-type") == "application/problem+json"
    return answer.status_code == 409 and is_problem and answer.json()["type"].rpartition("/")[2] in _REFUSALS


async def campaign(folder: Path, *, n: int, seed: int, progress: Progress) -> Verdict:
    """In a lab of its own in `folder`, which is stopped again."""
    async with Lab(folder, environment={}, only=_PROCESSES, progress=progress) as lab, two_processes(lab) as urls:
        rushes = plan(n, seed=seed)
        with step(progress, "Orders", total=n) as bar:
            rushed: list[Rushed] = []
            for number, rush in enumerate(rushes):
                order_no = await _paid_order(lab, str(number))
                rushed.append(await ship_all_at_once(lab, urls, order_no, rush))
                progress.update(bar, advance=1)
        report = await invariants.check(invariants.World.of(lab, simulators=("wechat", "wms")))
    answers = Counter(answer.status_code for one in rushed for answer in one.answers)
    violations = [sentence for one in rushed for sentence in one.violations()]
    return Verdict(
        figures={
            **Counter(f"Redis {rush.redis}" for rush in rushes),
            "accepted, repeats of the same included": answers[202],
            "refused": answers[409],
            "looked at by the invariants": " ".join(f"{name}:{count}" for name, count in report.checked.items()),
        },
        plan=digest([asdict(rush) for rush in rushes]),
        finals=digest([len(one.shipments) for one in rushed]),
        violations=violations + report.objections(*_CHECKED),
    )


def plan(n: int, *, seed: int) -> list[Rush]:
    chance = random.Random(f"ship:{seed}")
    troubles = ["flushed", "killed", "left alone"]
    return [Rush(troubles[number % 3], chance.randrange(REQUESTS // 2)) for number in range(n)]


async def ship_all_at_once(lab: Lab, urls: Sequence[str], order_no: str, rush: Rush) -> Rushed:
    """The order is paid; every request goes out at once, and Redis is there again afterwards."""
    answered, due = 0, asyncio.Event()
    same = str(uuid4())

    async def ship(number: int) -> httpx.Response:
        nonlocal answered
        key = same if number % 2 else str(uuid4())
        url = urls[number // 2 % len(urls)]
        answer = await http.post(f"{url}/v1/orders/{order_no}/ship", json={}, headers={"Idempotency-Key": key})
        answered += 1
        if answered > rush.after:
            due.set()
        return answer

    limits = httpx.Limits(max_connections=REQUESTS)
    async with httpx.AsyncClient(timeout=60, trust_env=False, limits=limits) as http:
        hurting = asyncio.create_task(_hurt_redis(lab, rush, due))
        answers = await asyncio.gather(*(ship(number) for number in range(REQUESTS)))
        await hurting
        await _until_labelled(lab, http, order_no)
        ledger = (await http.get(f"{lab.urls['wms']}/sim/ledger/active")).raise_for_status().json()
    return Rushed(rush, order_no, answers, ledger.get(order_no, []))


async def _hurt_redis(lab: Lab, rush: Rush, due: asyncio.Event) -> None:
    await due.wait()
    match rush.redis:
        case "flushed":
            async with Redis.from_url(lab.surroundings.backing.redis_url) as redis:
                await redis.flushall()
        case "killed":
            await lab.kill(valkey.NAME)
            await lab.restart(valkey.NAME)
        case _:
            pass


async def _until_labelled(lab: Lab, http: httpx.AsyncClient, order_no: str) -> None:
    """The label has come back from the warehouse: whatever was to be asked of it was asked before."""
    deadline = time.monotonic() + _ARRIVES_SECONDS
    while True:
        order = (await http.get(f"{lab.urls['order-core']}/v1/orders/{order_no}")).json()
        if order["status"] not in {"paid", "shipping"}:
            return
        if time.monotonic() > deadline:
            raise LabError(f"Order {order_no} is still {order['status']}: logistics-poller's log may say why.")
        await asyncio.sleep(_LOOK_SECONDS)


async def _paid_order(lab: Lab, external_order_id: str) -> str:
    async with httpx.AsyncClient(timeout=30, trust_env=False) as http:
        wish: Mapping[str, Any] = {
            "source": "campaign",
            "external_order_id": external_order_id,
            "amount_fen": 9900,
            "items": [{"sku": "LAMP-1", "name": "落地灯", "quantity": 1}],
            "receiver": {"name": "赵先生", "phone": "13800138000", "region": "浙江", "address": "人民路 1 号"},
        }
        order_no = (
            (await http.post(f"{lab.urls['order-core']}/v1/orders", json=wish)).raise_for_status().json()["order_no"]
        )
        money = {"out_trade_no": order_no, "amount_fen": 9900}
        (await http.post(f"{lab.urls['wechat']}/sim/pay", json=money)).raise_for_status()
        deadline = time.monotonic() + _ARRIVES_SECONDS
        while (await http.get(f"{lab.urls['order-core']}/v1/orders/{order_no}")).json()["status"] != "paid":
            if time.monotonic() > deadline:
                raise LabError(f"Order {order_no} is not paid: payment-callback's log may say why.")
            await asyncio.sleep(_LOOK_SECONDS)
    return order_no


@asynccontextmanager
async def two_processes(lab: Lab) -> AsyncGenerator[Sequence[str]]:
    """A second order-core beside the lab's; the URLs of both."""
    port = lab.home.port(_SECOND)
    url = f"http://127.0.0.1:{port}"
    own = {"ORDERLOOP_HTTP_PORT": str(port), "ORDERLOOP_KAFKA_INSTANCE_ID": _SECOND}
    await lab.supervisor.start(
        Command(
            name=_SECOND,
            argv=(sys.executable, "-m", "order_core", "serve"),
            folder=str(lab.home.folder / "work" / _SECOND),
            url=f"{url}/livez",
            env=lab.env_of("order-core") | own,
            layer=2,
        )
    )
    try:
        yield lab.urls["order-core"], url
    finally:
        await lab.supervisor.stop(_SECOND)
