"""A shop with its customers, as another system of the company: it calls order-core and follows order-changed.

It behaves as such a system should: every request is repeated under its own Idempotency-Key until it is answered.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

import httpx
from aiokafka import AIOKafkaConsumer, TopicPartition

from orderloop.topics import ORDER_CHANGED, PARTITIONS
from orderloop_lab.errors import LabError
from orderloop_lab.scenario import Mishap, OrderPlan
from orderloop_lab.system import Lab

_AT_ONCE = 32  # requests in flight; a shop's own limit
_ATTEMPTS, _PAUSE_SECONDS = 900, 0.2  # three minutes: longer than any restart takes
_SLOW_ANSWER_SECONDS = 3.0  # longer than the lab's settlement waits for its bank


class Shop:
    """`async with Shop(lab, "demo-1") as shop: await shop.sell(plans)`; `shop.statuses` tells where the orders are."""

    def __init__(self, lab: Lab, source: str) -> None:
        self._urls = lab.urls
        self._consumer = AIOKafkaConsumer(
            bootstrap_servers=lab.surroundings.backing.kafka_bootstrap,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
        )
        self._topic = lab.surroundings.prefix + ORDER_CHANGED
        self._source = source
        self._wanted: dict[str, OrderPlan] = {}  # by the shop's own order id
        self._plans: dict[str, OrderPlan] = {}  # by order_no
        self._statuses: dict[str, tuple[int, str]] = {}
        self._limit = asyncio.Semaphore(_AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()
        self._news = asyncio.Event()
        self._failed: BaseException | None = None

    @property
    def statuses(self) -> Mapping[str, str]:
        """order_no -> status, as order-changed told it."""
        return {order_no: status for order_no, (_, status) in self._statuses.items()}

    @property
    def plans(self) -> Mapping[str, OrderPlan]:
        """order_no -> what was planned for it."""
        return self._plans

    @property
    def funnel(self) -> Counter[str]:
        return Counter(self.statuses.values())

    async def __aenter__(self) -> Self:
        self._http = await httpx.AsyncClient(timeout=15).__aenter__()
        await self._consumer.start()
        partitions = [TopicPartition(self._topic, number) for number in range(PARTITIONS)]
        self._consumer.assign(partitions)
        await self._consumer.seek_to_end(*partitions)
        self._keep(self._follow())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._consumer.stop()
        await self._http.aclose()

    async def sell(self, plans: list[OrderPlan]) -> None:
        """Take every order and its payment. The rest of its life follows from what order-changed says."""
        self._wanted |= {plan.external_order_id: plan for plan in plans}
        await asyncio.gather(*(self._take(plan) for plan in plans))

    async def until(self, done: Callable[[], bool], *, silence: float) -> None:
        """Wait for `done()`. Raises LabError when nothing at all has happened for `silence` seconds."""
        while not done():
            self._raise_failed()
            self._news.clear()
            try:
                await asyncio.wait_for(self._news.wait(), silence)
            except TimeoutError:
                self._raise_failed()
                raise LabError(f"No order moved for {silence:.0f} s; they stand at {dict(self.funnel)}.") from None

    def arrived(self) -> bool:
        """Whether every order is where it was planned to end."""
        statuses = self.statuses
        return len(self._plans) == len(self._wanted) and all(
            statuses.get(order_no) == plan.final_status for order_no, plan in self._plans.items()
        )

    async def _take(self, plan: OrderPlan) -> None:
        async with self._limit:
            answer = await self._call(
                "order-core",
                "/v1/orders",
                {
                    "source": self._source,
                    "external_order_id": plan.external_order_id,
                    "amount_fen": plan.amount_fen,
                    "items": [{"sku": plan.sku, "name": plan.name, "quantity": plan.quantity}],
                    "receiver": {
                        "name": plan.receiver,
                        "phone": plan.phone,
                        "region": plan.region,
                        "address": "人民路 1 号",
                    },
                },
            )
            order_no = answer["order_no"]
            await self._prepare_mishaps(order_no, plan)
            await self._pay(order_no, plan)

    async def _prepare_mishaps(self, order_no: str, plan: OrderPlan) -> None:
        payment = {"out_trade_no": order_no, "amount_fen": plan.amount_fen}
        for mishap in sorted(plan.mishaps):
            match mishap:
                case Mishap.PROBE:
                    await self._call("wechat", "/sim/probe", payment)
                case Mishap.FORGED_NOTICE:
                    await self._call("wechat", "/sim/forge", payment)
                case Mishap.SLOW_BANK:
                    rule = {"order_no": order_no, "answer": "slow", "seconds": _SLOW_ANSWER_SECONDS}
                    await self._call("bank", "/sim/faults", rule)
                case Mishap.SILENT_COURIER:
                    await self._call("wms", f"/sim/orders/{order_no}", {"journey": ["silent"]})
                case Mishap.AGGREGATOR_DOWN:
                    await self._call("wms", f"/sim/orders/{order_no}", {"journey": ["aggregator_down"]})
                case _:
                    pass  # part of the payment or of the ship request itself

    async def _pay(self, order_no: str, plan: OrderPlan) -> None:
        faults = {
            "duplicates": int(Mishap.DUPLICATE_NOTICE in plan.mishaps),
            "simultaneous": 1 + int(Mishap.SIMULTANEOUS_NOTICES in plan.mishaps),
            "lose_first": int(Mishap.LOST_NOTICE in plan.mishaps),
        }
        await self._call(
            "wechat", "/sim/pay", {"out_trade_no": order_no, "amount_fen": plan.amount_fen, "faults": faults}
        )

    async def _follow(self) -> None:
        async for record in self._consumer:
            change = json.loads(record.value or b"{}")
            order_no, version, status = change["order_no"], change["version"], change["to"]
            if version == 1 and change["actor"] == self._source:
                _, external_order_id, _ = change["cause"]["event_id"].split(":")
                self._plans[order_no] = self._wanted[external_order_id]
            known, before = self._statuses.get(order_no, (0, ""))
            if order_no not in self._plans or version <= known:
                continue  # somebody else's order; or published again after a crash
            self._statuses[order_no] = (version, status)
            self._news.set()
            if status != before and status in {"paid", "delivered"}:
                self._keep(self._react(order_no, status))

    async def _react(self, order_no: str, status: str) -> None:
        async with self._limit:
            if status == "delivered":
                await self._command(order_no, "confirm-receipt")
                return
            twice = 1 + int(Mishap.SHIPPED_TWICE in self._plans[order_no].mishaps)
            await asyncio.gather(*(self._command(order_no, "ship", {}) for _ in range(twice)))

    async def _command(self, order_no: str, name: str, body: Mapping[str, Any] | None = None) -> None:
        """Ask until it is done, by this request or by another one."""
        key = {"Idempotency-Key": str(uuid4()), "X-Caller": self._source}
        with suppress(_Refused):  # the order's status forbids it: the other of two requests was faster
            await self._call("order-core", f"/v1/orders/{order_no}/{name}", body, key)

    async def _call(
        self, name: str, path: str, body: Mapping[str, Any] | None, headers: Mapping[str, str] | None = None
    ) -> Any:
        """POST until there is an answer; the same request every time. Raises LabError when it is refused."""
        for _ in range(_ATTEMPTS):
            with suppress(httpx.TransportError):
                answer = await self._http.post(self._urls[name] + path, json=body, headers=headers)
                if answer.is_success:
                    return answer.json()
                text = answer.text
                if "order-status-forbids" in text:
                    raise _Refused(text)
                if "ORDERPAID" in text:  # an earlier try reached the channel, only its answer did not reach us
                    return None
                if answer.status_code < 500 and "still-running" not in text:
                    raise LabError(f"{name} refuses {path}: {text[:200]}")
            await asyncio.sleep(_PAUSE_SECONDS)
        raise LabError(f"{name} does not answer {path}: look at its log with `python -m orderloop_lab logs {name}`.")

    def _keep(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self._failed = error
            self._news.set()

    def _raise_failed(self) -> None:
        if self._failed:
            raise self._failed


class _Refused(Exception):
    """The order's status forbids the command."""
