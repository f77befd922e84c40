"""How a payment channel tells a merchant: a notice is sent until it is acknowledged, or the schedule is spent.

A delivery's whole state lies in the ledger before anything is sent, so a killed simulator goes on where it was; what
it had sent without learning the answer it sends again, as the real ones do.
"""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

from .ledger import Simulator


class Faults(Protocol):
    """What every channel's faults say of a delivery as a whole."""

    @property
    def delay(self) -> float: ...  # seconds before the first attempt, divided by the time factor

    def model_dump(self, *, mode: str) -> dict[str, Any]: ...


class Deliveries(ABC):
    """Deliveries under way. A channel says how one attempt is made, and when the next one comes."""

    retries: ClassVar[tuple[int, ...]]  # seconds between attempts
    id_field: ClassVar[str]  # how the channel calls a notice's id

    def __init__(self, sim: Simulator) -> None:
        self._sim = sim
        self._tasks: set[asyncio.Task[None]] = set()

    @abstractmethod
    async def attempt(self, delivery: Mapping[str, Any], number: int, copy: int) -> bool:
        """Send once; attempts count from 1. Whether the channel heard an acknowledgement."""

    @property
    def under_way(self) -> int:
        """Deliveries that are neither acknowledged nor given up."""
        return len(self._tasks)

    def start(self, notice: Mapping[str, Any], faults: Faults) -> None:
        """Begin to deliver; a notice that is known already is not begun again."""
        delivery = {
            **notice,
            "faults": faults.model_dump(mode="json"),
            "state": "open",  # acknowledged | given_up
            "attempts": 0,
            "acknowledgements": 0,
            "next_at": time.time() + self._sim.delay(faults.delay),
        }
        if self._sim.ledger.add("notice", notice[self.id_field], delivery):
            self._go_on(delivery)

    def resume(self) -> None:
        for delivery in self._sim.ledger.all("notice"):
            if delivery["state"] == "open":
                self._go_on(delivery)

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _go_on(self, delivery: dict[str, Any]) -> None:
        task = asyncio.create_task(self._deliver(delivery))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _deliver(self, delivery: dict[str, Any]) -> None:
        faults = delivery["faults"]
        while delivery["state"] == "open":
            await asyncio.sleep(max(0.0, delivery["next_at"] - time.time()))
            number = delivery["attempts"] + 1
            heard = await asyncio.gather(
                *(self.attempt(delivery, number, copy) for copy in range(faults["simultaneous"]))
            )
            delivery["attempts"] = number
            delivery["acknowledgements"] += any(heard)
            if delivery["acknowledgements"] > faults["duplicates"]:
                delivery["state"] = "acknowledged"
            elif number > len(self.retries):
                delivery["state"] = "given_up"
            else:
                delivery["next_at"] = time.time() + self._sim.delay(self.retries[number - 1])
            self._sim.ledger.put("notice", delivery[self.id_field], delivery)
