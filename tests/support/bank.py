"""The bank simulator as tests hold it."""

import hashlib
import hmac
import time
from pathlib import Path
from typing import Any

from tests.support.simulator import SimulatorProcess

SECRET = "bank-simulator-secret"


class BankProcess(SimulatorProcess):
    def __init__(self, state: Path, **environ: str) -> None:
        super().__init__("bank", state, **environ)

    def will(self, **rule: Any) -> None:
        """The next calls that fit go as `rule` says, see the simulator's `Rule`."""
        self.http.post("/sim/faults", json=rule).raise_for_status()

    def behave(self) -> None:
        """Every rule is forgotten."""
        self.http.delete("/sim/faults").raise_for_status()

    def ledger(self, order_no: str) -> dict[str, Any]:
        return self.read("/sim/ledger", order_no=order_no)

    def paid(self, order_no: str) -> dict[str, tuple[int, int]]:
        """What arrived according to the bank: receiver -> (number of payouts, fen)."""
        return {row["receiver"]: (row["payouts"], row["amount_fen"]) for row in self.ledger(order_no)["paid"]}

    def calls(self, order_no: str) -> list[str]:
        """The routes that were called about an order, in time."""
        return [line["route"] for line in self.ledger(order_no)["calls"]]


def signed(method: str, path: str, body: bytes = b"", *, secret: str = SECRET) -> dict[str, str]:
    """The headers of a call that the bank takes for ours; written here once more, apart from the service's own."""
    stamp = str(int(time.time()))
    message = f"{method}\n{path}\n{stamp}\n".encode() + body
    return {
        "X-Bank-Timestamp": stamp,
        "X-Bank-Signature": hmac.new(secret.encode(), message, hashlib.sha256).hexdigest(),
    }
