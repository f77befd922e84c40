"""`make demo`: orders through the whole system, mishaps included, and at the end a verdict on the books."""

import asyncio
from collections import Counter
from contextlib import suppress
from datetime import datetime
from secrets import token_hex
from typing import Any

import httpx
from rich.box import SIMPLE
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table

from orderloop.money import yuan
from orderloop_lab import invariants
from orderloop_lab.errors import LabError
from orderloop_lab.scenario import Mishap, OrderPlan, final_states, plan
from orderloop_lab.shop import Shop
from orderloop_lab.system import Lab

# The way of an order, in its order, as the live picture shows it.
_FUNNEL = ("pending", "paid", "shipping", "shipped", "delivered", "pending_settlement", "completed")
_SILENCE_SECONDS = 90.0  # nothing moves for so long: something is broken
_SETTLE_SECONDS = 60.0


async def main(lab: Lab, *, orders: int, seed: int) -> int:
    """Run the scenario on a lab that is up; 0 only if every order ended as planned and the books hold."""
    console = Console()
    plans = plan(orders, seed=seed)
    # The run's name keeps its orders apart from those of an earlier run; the plan depends on the seed alone.
    async with Shop(lab, f"demo-{seed}-{token_hex(3)}") as shop:
        console.print(_announcement(plans, seed))
        ended = await _run(console, shop, plans)
        await _quiet(lab)
        told = next((o for o, p in shop.plans.items() if Mishap.SLOW_BANK in p.mishaps), next(iter(shop.plans), None))
        if told:
            console.print(_timeline(await _get(f"{lab.urls['order-core']}/v1/orders/{told}/timeline")))
        console.print(_funnel(shop.funnel, final_states(plans)))
    report = await invariants.check(invariants.World.of(lab))
    report.show(console)
    console.print(
        f"traces:   {lab.surroundings.tracing.query_url} (search by the tag order_no={told})", highlight=False
    )
    console.print("still up: `make status`, `make verify`; `make down` stops it", highlight=False)
    return 0 if ended and report.passed else 1


async def _run(console: Console, shop: Shop, plans: list[OrderPlan]) -> bool:
    """Sell everything and watch it travel. Whether every order came to its planned end."""
    with Live(_picture(shop, len(plans)), console=console, refresh_per_second=4, transient=True) as live:

        async def redraw() -> None:
            while True:
                live.update(_picture(shop, len(plans)))
                await asyncio.sleep(0.25)

        drawing = asyncio.create_task(redraw())
        try:
            await shop.sell(plans)
            await shop.until(shop.arrived, silence=_SILENCE_SECONDS)
        except LabError as error:
            console.print(f"[red]{error}[/]")
            return False
        finally:
            drawing.cancel()
            with suppress(asyncio.CancelledError):
                await drawing
    return True


async def _quiet(lab: Lab) -> None:
    """Wait until nothing is on its way: every outbox empty, the silent parcel noticed."""
    connections = [await lab.connect(name) for name in ("order_core", "payment_callback", "logistics", "settlement")]
    try:
        deadline = asyncio.get_running_loop().time() + _SETTLE_SECONDS
        while asyncio.get_running_loop().time() < deadline:
            staged = [await conn.fetchval("select count(*) from outbox") for conn in connections]
            waiting = await connections[0].fetchval("select count(*) from waiting")
            if not any(staged) and not waiting:
                return
            await asyncio.sleep(0.2)
    finally:
        for conn in connections:
            await conn.close()


def _announcement(plans: list[OrderPlan], seed: int) -> Panel:
    mishaps = Counter(mishap for one in plans for mishap in one.mishaps)
    told = ", ".join(f"{count} {kind.replace('_', ' ')}" for kind, count in sorted(mishaps.items()))
    return Panel(f"{len(plans)} orders, seed {seed}\nmishaps: {told}", title="OrderLoop demo", expand=False)


def _picture(shop: Shop, orders: int) -> Group:
    funnel = shop.funnel
    table = Table.grid(padding=(0, 1))
    for status in _FUNNEL:
        count = funnel[status]
        table.add_row(status, str(count).rjust(6), ProgressBar(total=orders, completed=count, width=50))
    return Group(f"{sum(funnel.values())} of {orders} orders are under way", table)


def _funnel(reached: Counter[str], planned: Counter[str]) -> Table:
    table = Table("final status", "orders", "planned", title="Where the orders ended", title_justify="left", box=SIMPLE)
    for status in sorted({*reached, *planned}):
        colour = "green" if reached[status] == planned[status] else "red"
        table.add_row(status, f"[{colour}]{reached[status]}", str(planned[status]))
    return table


def _timeline(story: dict[str, Any]) -> Table:
    order = story["order"]
    table = Table(title=f"Order {order['order_no']}, {yuan(order['amount_fen'])} {order['currency']}", box=None)
    table.padding, table.pad_edge = (0, 1, 0, 0), False  # five columns in eighty characters
    table.title_justify = "left"
    for column in ("at", "status", "event", "from", "trace"):
        table.add_column(column, no_wrap=True)
    for change in story["changes"]:
        at = datetime.fromisoformat(change["recorded_at"]).astimezone().strftime("%H:%M:%S")
        status = change["to"] if change["from"] != change["to"] else ""
        actor = change["actor"].removeprefix("/")
        table.add_row(at, status, change["event"], actor, (change["trace_id"] or "")[:8])
    return table


async def _get(url: str) -> Any:
    async with httpx.AsyncClient(timeout=15) as client:
        answer = await client.get(url)
        answer.raise_for_status()
        return answer.json()
