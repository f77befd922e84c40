"""logistics-poller's surroundings as tests hold them: warehouse and couriers, events to give it, events it staged."""

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import asyncpg
import httpx
from aiokafka import ConsumerRecord

from logistics_poller.consumers import handler
from logistics_poller.couriers.breaker import Breaker
from logistics_poller.couriers.inquire import Couriers
from logistics_poller.couriers.kuaidi100 import Kuaidi100
from logistics_poller.couriers.zto import Zto
from logistics_poller.schedule import Plans
from orderloop.consume import Received
from orderloop.envelope import Envelope
from orderloop.events import BY_TOPIC, Decision, Event, Item, Receiver, ShipmentRequested, WaybillCreated
from orderloop.ids import new_order_no
from orderloop_lab.home import free_port
from tests.support.databases import Database
from tests.support.programs import Program
from tests.support.simulator import SimulatorProcess

CUSTOMER, KEY, APP_KEY, SECRET = "CUSTOMER-1", "lab-key", "lab-app", "lab-secret"
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
HOUR = timedelta(hours=1)


class MovableClock:
    """The present, moved by `ahead`."""

    def __init__(self, ahead: timedelta = timedelta()) -> None:
        self.ahead = ahead

    def now(self) -> datetime:
        return datetime.now(UTC) + self.ahead


@dataclass(frozen=True, slots=True)
class Outside:
    wms: SimulatorProcess
    kuaidi100: SimulatorProcess
    zto: SimulatorProcess

    def travels(self, waybill_no: str, courier: str, *, label_at: datetime, faults: tuple[str, ...] = ()) -> None:
        """A parcel that both courier interfaces know."""
        for sim in (self.kuaidi100, self.zto):
            sim.tell(
                "/sim/journeys",
                waybill_no=waybill_no,
                courier=courier,
                label_at=label_at.isoformat(),
                faults=list(faults),
            )

    def couriers(self, client: httpx.AsyncClient) -> Couriers:
        aggregator = Kuaidi100(
            client, base_url=self.kuaidi100.url, recognition_url=self.kuaidi100.url, customer=CUSTOMER, key=KEY
        )
        zto = Zto(client, base_url=self.zto.url, app_key=APP_KEY, app_secret=SECRET)
        return Couriers(aggregator, {"zto": zto}, Breaker(lambda: 0.0, failures=1000))

    def asks(self, waybill_no: str) -> int:
        """How often the aggregator was asked for a waybill."""
        return len(self.kuaidi100.read("/sim/ledger/asks", waybill_no=waybill_no))

    def active_shipments(self, order_no: str) -> list[str]:
        return self.wms.read("/sim/ledger/active").get(order_no, [])

    def calls(self, order_no: str) -> list[int]:
        return [call["status"] for call in self.wms.read("/sim/ledger/calls", order_no=order_no)]

    def settings(self) -> dict[str, str]:
        return {
            "ORDERLOOP_WMS_BASE_URL": self.wms.url,
            "ORDERLOOP_KUAIDI100_BASE_URL": self.kuaidi100.url,
            "ORDERLOOP_KUAIDI100_CUSTOMER": CUSTOMER,
            "ORDERLOOP_KUAIDI100_KEY": KEY,
            "ORDERLOOP_ZTO_BASE_URL": self.zto.url,
            "ORDERLOOP_ZTO_APP_KEY": APP_KEY,
            "ORDERLOOP_ZTO_APP_SECRET": SECRET,
        }


@contextmanager
def outside_world(folder: Path, *, time_factor: float = 1) -> Iterator[Outside]:
    common = {"SIM_SEED": "7", "SIM_TIME_FACTOR": str(time_factor)}
    kuaidi100 = SimulatorProcess(
        "kuaidi100", folder / "kuaidi100", SIM_KUAIDI100_CUSTOMER=CUSTOMER, SIM_KUAIDI100_KEY=KEY, **common
    )
    zto = SimulatorProcess("zto", folder / "zto", SIM_ZTO_APP_KEY=APP_KEY, SIM_ZTO_APP_SECRET=SECRET, **common)
    urls = f"{kuaidi100.url},{zto.url}"
    wms = SimulatorProcess("wms", folder / "wms", SIM_WMS_COURIER_URLS=urls, **common)
    with kuaidi100, zto, wms:
        yield Outside(wms, kuaidi100, zto)


def new_order() -> str:
    return new_order_no(datetime.now(UTC))


def shipment_requested(order_no: str, *, express_code: str = "zto", shipment: int = 1) -> ShipmentRequested:
    return ShipmentRequested(
        order_no=order_no,
        shipment_id=f"{order_no}_S{shipment}",
        decision=Decision(warehouse="suzhou", express_code=express_code),
        items=(Item(sku="TEA", name="龙井", quantity=2),),
        receiver=Receiver(name="王小明", phone="13800001234", region="广东省广州市", address="体育西路 1 号"),
    )


def waybill_created(
    order_no: str, waybill_no: str, *, express_code: str = "zto", created_at: datetime
) -> WaybillCreated:
    return WaybillCreated(
        order_no=order_no,
        shipment_id=f"{order_no}_S1",
        express_code=express_code,
        waybill_no=waybill_no,
        warehouse="elsewhere",
        created_at=created_at,
    )


def received(event: Event, event_id: str, *, source: str = "/order-core") -> Received:
    """As the consume loop hands an event over."""
    envelope = Envelope(event_id, source, event.TOPIC, datetime.now(UTC), event.order_no, TRACEPARENT)
    record = cast("ConsumerRecord[bytes | None, bytes | None]", None)  # only a parked event's own bytes are read
    return Received(envelope, event, record, TRACEPARENT)


async def take_in(pool: asyncpg.Pool, *events: tuple[Event, str]) -> None:
    """Through the real handler, in one batch."""
    handle = handler(pool, plans=Plans(), clock=MovableClock())
    await handle([received(event, event_id) for event, event_id in events])


@dataclass(frozen=True, slots=True)
class Published:
    event_id: str
    event: Any
    traceparent: str | None


async def staged(pool: asyncpg.Pool, order_no: str) -> list[Published]:
    """What waits in the outbox for an order, in the order of publication."""
    rows = await pool.fetch("select * from outbox where order_no = $1 order by id", order_no)
    return [Published(row["event_id"], BY_TOPIC[row["topic"]].decode(row["body"]), row["traceparent"]) for row in rows]


class ServiceProcess:
    """logistics-poller as a process of its own; killed at the end."""

    def __init__(self, db: Database, **environ: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._environ = {
            "ORDERLOOP_POSTGRES_URL": db.app_url,
            "ORDERLOOP_HTTP_PORT": str(self.port),
            "ORDERLOOP_LOG_LEVEL": "WARNING",
            **environ,
        }
        self._process: Program | None = None

    async def start(self, **environ: str) -> None:
        self._process = Program("logistics_poller", "serve", env=os.environ | self._environ | environ)
        async with asyncio.timeout(40), httpx.AsyncClient(base_url=self.url, trust_env=False) as http:
            while True:
                try:
                    if (await http.get("/readyz")).is_success:
                        return
                except httpx.TransportError:
                    if self._process.poll() is not None:
                        raise RuntimeError(f"logistics-poller ended with {self._process.returncode}") from None
                await asyncio.sleep(0.05)  # between two looks at whether it is ready

    async def killed_by_itself(self) -> bool:
        """Waits for the end that a failpoint brought about; whether it was SIGKILL."""
        assert self._process is not None
        return await asyncio.to_thread(self._process.wait, 20) == -signal.SIGKILL

    async def stop(self) -> int:
        """SIGTERM; the exit status."""
        assert self._process is not None
        self._process.terminate()
        return await asyncio.to_thread(self._process.wait, 20)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
