"""Sends notices as the channel does: a process of its own, so that its work stands on nobody's account.

`python -m tests.bench.callback_driver` reads an Errand (one line of JSON), signs its notices, says "ready", and on the
next line sends them over kept-alive connections. The Outcome is its last line. It speaks HTTP by hand: a client library
would take more of the machine than the service does.
"""

import asyncio
import dataclasses
import gc
import json
import re
import sys
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import uvloop

from orderloop_lab.simulators.wechat_keys import Keys, open_keys
from tests.support.payment_callback import CALLBACK
from tests.support.wechat import Sent, send, transaction

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)

NO_ANSWER = 0


@dataclass(frozen=True, slots=True)
class Errand:
    keys: str  # the folder in which the simulator's keys are
    port: int
    first: int  # number of the first notice, see `notice`
    count: int
    connections: int
    rate: float | None  # notices/s, whatever the answers do (open loop); None: as many as the connections carry


@dataclass(frozen=True, slots=True)
class Outcome:
    seconds: float  # from the first notice to the last answer
    statuses: list[int]  # by notice; NO_ANSWER where the connection broke
    latencies: list[float]  # seconds; open loop: since the notice was due, so a late sender hides nothing


def order_no(number: int) -> str:
    return f"261122093015{number:012d}"


def event_id(number: int) -> str:
    """The name that the fact of this notice has for the house."""
    return f"wechat:{_transaction_id(number)}:paid"


def notice(keys: Keys, number: int) -> Sent:
    """Every number is another order's payment. Valid for five minutes from now."""
    return send(keys, transaction(out_trade_no=order_no(number), transaction_id=_transaction_id(number)))


def _transaction_id(number: int) -> str:
    return f"42{number:026d}"


def _request(sent: Sent, port: int) -> bytes:
    headers = {"Host": f"127.0.0.1:{port}", **sent.headers, "Content-Length": str(len(sent.body))}
    lines = [f"POST {CALLBACK} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + sent.body


class _Connection(asyncio.Protocol):
    """Carries one request at a time."""

    def __init__(self, drive: "_Drive") -> None:
        self._drive = drive
        self._number: int | None = None  # of the notice under way
        self._answer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by descent

    def send(self, number: int, request: bytes) -> None:
        self._number = number
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._answer += data
        head, end, body = self._answer.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if not end or (length and len(body) < int(length[1])):
            return
        number, self._number, self._answer = self._number, None, b""
        assert number is not None
        self._drive.answered(number, int(head[9:12]), self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._drive.lost(self, self._number)

    def close(self) -> None:
        self._transport.close()


class _Drive:
    def __init__(self, requests: list[bytes], rate: float | None) -> None:
        self._requests = requests
        self._rate = rate
        self._began = [0.0] * len(requests)
        self._waiting: deque[int] = deque()
        self._idle: list[_Connection] = []
        self._connections: set[_Connection] = set()
        self._due = 0  # how many notices have come due
        self._open = len(requests)
        self._done = asyncio.Event()
        self._statuses = [NO_ANSWER] * len(requests)
        self._latencies = [0.0] * len(requests)

    async def run(self, port: int, connections: int) -> Outcome:
        loop = asyncio.get_running_loop()
        for _ in range(connections):
            _, connection = await loop.create_connection(lambda: _Connection(self), "127.0.0.1", port)
            self._connections.add(connection)
        self._idle = list(self._connections)
        self._start = time.perf_counter()
        if self._rate is None:
            self._waiting.extend(range(len(self._requests)))
            self._send()
        else:
            self._tick(loop, self._rate)
        await self._done.wait()
        seconds = time.perf_counter() - self._start
        for connection in self._connections:
            connection.close()
        return Outcome(seconds, self._statuses, self._latencies)

    def answered(self, number: int, status: int, connection: _Connection) -> None:
        self._statuses[number] = status
        self._latencies[number] = time.perf_counter() - self._began[number]
        self._idle.append(connection)
        self._settle()
        self._send()

    def lost(self, connection: _Connection, number: int | None) -> None:
        """A connection that broke stays broken; without any the rest is given up."""
        self._connections.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        if number is not None:
            self._settle()
        if not self._connections:
            self._done.set()

    def _settle(self) -> None:
        self._open -= 1
        if not self._open:
            self._done.set()

    def _tick(self, loop: asyncio.AbstractEventLoop, rate: float) -> None:
        passed = time.perf_counter() - self._start
        while self._due < len(self._requests) and self._due / rate <= passed:
            self._began[self._due] = self._start + self._due / rate
            self._waiting.append(self._due)
            self._due += 1
        self._send()
        if self._due < len(self._requests):
            loop.call_later(max(0.0, self._due / rate - passed), self._tick, loop, rate)

    def _send(self) -> None:
        while self._idle and self._waiting:
            number = self._waiting.popleft()
            if self._rate is None:
                self._began[number] = time.perf_counter()
            self._idle.pop().send(number, self._requests[number])


async def _main() -> None:
    errand = Errand(**json.loads(sys.stdin.readline()))
    keys = open_keys(Path(errand.keys))
    numbers = range(errand.first, errand.first + errand.count)
    requests = [_request(notice(keys, number), errand.port) for number in numbers]
    gc.collect()
    gc.freeze()
    print("ready", flush=True)  # noqa: T201  # what it says is its interface
    sys.stdin.readline()
    outcome = await _Drive(requests, errand.rate).run(errand.port, errand.connections)
    print(json.dumps(dataclasses.asdict(outcome)), flush=True)  # noqa: T201


if __name__ == "__main__":
    uvloop.run(_main())
