"""A simulator of the outside world as a process of its own, as tests hold it."""

import os
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from orderloop_lab.home import free_port
from tests.support.programs import Program

ROOT = Path(__file__).parents[2]


class SimulatorProcess:
    """`with SimulatorProcess("wms", folder) as wms`: started, answering, and gone afterwards.

    The folder outlives a kill, so `kill()` and `start()` show what the ledger remembers.
    """

    def __init__(self, name: str, state: Path, **environ: str) -> None:
        self.name = name
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.http = httpx.Client(base_url=self.url, timeout=10, trust_env=False)
        self._environ = {"SIM_STATE": str(state), "SIM_PORT": str(self.port)} | environ
        self._process: Program | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.kill()
        self.http.close()

    def start(self) -> None:
        self._process = Program(f"orderloop_lab.simulators.{self.name}", env=os.environ | self._environ)
        deadline = time.monotonic() + 30
        while self._process.poll() is None and time.monotonic() < deadline:
            try:
                if self.http.get("/livez").is_success:
                    return
            except httpx.TransportError:
                time.sleep(0.05)  # between two looks at whether it listens yet
        raise TimeoutError(f"{self.name} does not start")

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def tell(self, route: str, **body: Any) -> Any:
        return self.http.post(route, json=body).raise_for_status().json()

    def read(self, route: str, **query: str) -> Any:
        return self.http.get(route, params=query).raise_for_status().json()

    def read_until_there(self, route: str, **query: str) -> Any:
        """Like `read`, but waits for an answer that is not empty. Raises TimeoutError after 10 seconds."""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            if answer := self.read(route, **query):
                return answer
            time.sleep(0.01)  # between two looks
        raise TimeoutError(f"{self.name} {route} stays empty")
