"""The bank simulator as a process of its own, as tests hold it."""

import hashlib
import hmac
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

SECRET = "bank-simulator-secret"
ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class BankProcess:
    """`with BankProcess(folder) as bank`: started, answering, and gone afterwards. The folder outlives a kill."""

    def __init__(self, state: Path, **environ: str) -> None:
        self.port = free_port()
        self.base_url = f"http://127.0.0.1:{self.port}"
        self._environ = {"SIM_STATE": str(state), "SIM_PORT": str(self.port)} | environ
        self._process: subprocess.Popen[bytes] | None = None
        self._control = httpx.Client(base_url=self.base_url, timeout=30, trust_env=False)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.kill()
        self._control.close()

    def start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "orderloop_lab.simulators.bank"],
            env=os.environ | {"PYTHONPATH": str(ROOT / "deploy" / "lab")} | self._environ,
        )
        for _ in range(600):
            try:
                if self._control.get("/livez").is_success:
                    return
            except httpx.TransportError:
                time.sleep(0.05)
        raise TimeoutError("the bank does not start")

    def kill(self) -> None:
        """kill -9; `start()` brings it back on the same port with the same books."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def will(self, **rule: Any) -> None:
        """The next calls that fit go as `rule` says, see the simulator's `Rule`."""
        self._control.post("/sim/faults", json=rule).raise_for_status()

    def behave(self) -> None:
        self._control.delete("/sim/faults").raise_for_status()

    def ledger(self, order_no: str | None = None) -> dict[str, Any]:
        query = {} if order_no is None else {"order_no": order_no}
        return self._control.get("/sim/ledger", params=query).raise_for_status().json()

    def paid(self, order_no: str) -> dict[str, tuple[int, int]]:
        """What arrived according to the bank: receiver -> (number of payouts, fen)."""
        return {row["receiver"]: (row["payouts"], row["amount_fen"]) for row in self.ledger(order_no)["paid"]}

    def calls(self, order_no: str | None = None) -> list[str]:
        return [line["route"] for line in self.ledger(order_no)["calls"]]


def signed(method: str, path: str, body: bytes = b"", secret: str = SECRET, at: int | None = None) -> dict[str, str]:
    """The headers of a call that the bank takes for ours; written here once more, apart from the service's own."""
    stamp = str(int(time.time()) if at is None else at)
    message = f"{method}\n{path}\n{stamp}\n".encode() + body
    return {
        "X-Bank-Timestamp": stamp,
        "X-Bank-Signature": hmac.new(secret.encode(), message, hashlib.sha256).hexdigest(),
    }
