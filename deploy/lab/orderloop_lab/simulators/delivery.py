"""How a payment channel tells a merchant: a notice is sent until it is acknowledged, or the schedule is spent.

A delivery's whole state lies in the ledger before anything is sent, so a killed simulator goes on where it was; what
it had sent without learning the answer it sends again, as the real ones do.
"""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar, Generic, TypeVar

import httpx
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from .ledger import Simulator

ANSWER_WITHIN = 5.0  # seconds, never compressed: this is what the merchant's code must keep


class Manner(StrEnum):
    """How one attempt is sent. A channel need not know all of them."""

    GENUINE = "genuine"
    LOST = "lost"  # never leaves the building
    PROBE = "probe"  # WECHATPAY/SIGNTEST/: a right merchant refuses it
    FORGED = "forged"  # a stranger's key
    TAMPERED = "tampered"  # changed after signing
    BROKEN_TAG = "broken_tag"  # authentic, but the ciphertext does not decrypt
    ANSWER_LOST = "answer_lost"  # genuine, only that the answer never reaches us


# How often a notice fails in which manner: by these fields, in this order.
_STORY = (
    ("lose_first", Manner.LOST),
    ("probe", Manner.PROBE),
    ("forge", Manner.FORGED),
    ("tamper", Manner.TAMPERED),
    ("break_tag", Manner.BROKEN_TAG),
    ("lose_answer", Manner.ANSWER_LOST),
)


class Faults(BaseModel):
    """What goes wrong with one notice. The first attempts fail in the order of the counts, then it is genuine."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    delay: float = Field(0, ge=0)  # seconds before the first attempt, divided by the time factor
    lose_first: int = Field(0, ge=0)
    forge: int = Field(0, ge=0)
    tamper: int = Field(0, ge=0)
    lose_answer: int = Field(0, ge=0)
    duplicates: int = Field(0, ge=0)  # sent again so often after it was acknowledged
    simultaneous: int = Field(1, ge=1)  # copies of every attempt, at the same instant

    def manner(self, attempt: int) -> Manner:
        """`attempt` counts from 1."""
        story = [manner for name, manner in _STORY for _ in range(getattr(self, name, 0))]
        return story[attempt - 1] if attempt <= len(story) else Manner.GENUINE


@dataclass(frozen=True, slots=True)
class Letter:
    """One attempt as it goes out."""

    headers: Mapping[str, str]
    body: bytes
    noted: Mapping[str, Any] = field(default_factory=dict[str, Any])  # about it, for the ledger


SomeFaults = TypeVar("SomeFaults", bound=Faults)


class Deliveries(ABC, Generic[SomeFaults]):
    """Deliveries under way. A channel says how an attempt is composed, what acknowledges it, when the next comes."""

    retries: ClassVar[tuple[int, ...]]  # seconds between attempts
    id_field: ClassVar[str]  # how the channel calls a notice's id
    headers: ClassVar[Mapping[str, str]] = {}  # of every request

    def __init__(self, sim: Simulator, faults: type[SomeFaults]) -> None:
        self._sim = sim
        self._faults = faults
        self._tasks: set[asyncio.Task[None]] = set()
        self._client = httpx.AsyncClient(
            headers=self.headers,
            follow_redirects=False,
            trust_env=False,
            timeout=None,  # noqa: S113  # the deadline is kept below, over the whole exchange
            limits=httpx.Limits(max_connections=200, max_keepalive_connections=50),
        )

    @abstractmethod
    def compose(self, notice: Mapping[str, Any], faults: SomeFaults, manner: Manner, attempt: int) -> Letter: ...

    @abstractmethod
    def acknowledges(self, status: int, answer: str) -> bool: ...

    @property
    def under_way(self) -> int:
        """Deliveries that are neither acknowledged nor given up."""
        return len(self._tasks)

    def start(self, notice: Mapping[str, Any], faults: SomeFaults) -> None:
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

    async def send(self, notice: Mapping[str, Any], faults: SomeFaults, attempt: int, copy: int) -> bool:
        """One attempt, counted from 1. Whether the channel heard an acknowledgement."""
        manner = faults.manner(attempt)
        letter = self.compose(notice, faults, manner, attempt)
        key = f"{notice[self.id_field]}:{attempt}:{copy}:{time.time_ns()}"
        record: dict[str, Any] = {
            self.id_field: notice[self.id_field],
            "about": notice["about"],
            "attempt": attempt,
            "copy": copy,
            "manner": manner,
            **letter.noted,
            "sent_at": time.time(),
            "answered_at": None,
            "status": None,
            "answer": None,
            "error": None,
        }
        self._sim.ledger.put("attempt", key, record)
        if manner is Manner.LOST:
            return False
        try:
            async with asyncio.timeout(ANSWER_WITHIN):
                answer = await self._client.post(notice["url"], content=letter.body, headers=letter.headers)
        except Exception as error:  # no answer, however the client says so: not all it raises is an HTTPError
            record["error"] = f"{type(error).__name__}: {error}"
        else:
            record |= {"status": answer.status_code, "answer": answer.text[:500]}
        record["answered_at"] = time.time()
        self._sim.ledger.put("attempt", key, record)
        heard = record["status"] is not None and self.acknowledges(record["status"], record["answer"])
        return heard and manner is not Manner.ANSWER_LOST

    def application(self, routes: Sequence[Route], bad_request: Callable[[str], Response]) -> Starlette:
        """The simulator as a whole: deliveries go on with its start, and stop with its end."""

        @asynccontextmanager
        async def lifespan(_: Starlette) -> AsyncGenerator[None]:
            self._resume()
            yield
            await self._stop()
            self._sim.ledger.close()

        async def refuse(_: Request, error: Exception) -> Response:
            return bad_request(str(error))

        return Starlette(routes=routes, lifespan=lifespan, exception_handlers={ValidationError: refuse})

    def _resume(self) -> None:
        for delivery in self._sim.ledger.all("notice"):
            if delivery["state"] == "open":
                self._go_on(delivery)

    async def _stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._client.aclose()

    def _go_on(self, delivery: dict[str, Any]) -> None:
        task = asyncio.create_task(self._deliver(delivery))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _deliver(self, delivery: dict[str, Any]) -> None:
        faults = self._faults.model_validate(delivery["faults"])
        while delivery["state"] == "open":
            await asyncio.sleep(max(0.0, delivery["next_at"] - time.time()))
            number = delivery["attempts"] + 1
            heard = await asyncio.gather(
                *(self.send(delivery, faults, number, copy) for copy in range(faults.simultaneous))
            )
            delivery["attempts"] = number
            delivery["acknowledgements"] += any(heard)
            if delivery["acknowledgements"] > faults.duplicates:
                delivery["state"] = "acknowledged"
            elif number > len(self.retries):
                delivery["state"] = "given_up"
            else:
                delivery["next_at"] = time.time() + self._sim.delay(self.retries[number - 1])
            self._sim.ledger.put("notice", delivery[self.id_field], delivery)
