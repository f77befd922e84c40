"""What we ask a bank for and what it can say, the same for every bank: values without behaviour towards the world."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class PayoutStatus(StrEnum):
    PENDING = "pending"  # the bank has said nothing about it yet
    PROCESSING = "processing"
    SUCCESS = "success"  # the money has arrived
    FAILED = "failed"  # the bank refused for good


@dataclass(frozen=True, slots=True)
class Payout:
    """What one receiver gets by one instruction."""

    receiver: str
    account: str
    amount_fen: int


@dataclass(frozen=True, slots=True)
class Instruction:
    """One order to the bank. `reference` is the bank's idempotency key: never another one for the same attempt."""

    reference: str
    order_no: str
    payouts: tuple[Payout, ...]

    @property
    def amount_fen(self) -> int:
        return sum(payout.amount_fen for payout in self.payouts)


@dataclass(frozen=True, slots=True)
class PayoutTold:
    receiver: str
    status: PayoutStatus
    arrived_at: datetime | None = None  # with SUCCESS, always
    reason: str | None = None  # with FAILED, the bank's words


@dataclass(frozen=True, slots=True)
class Told:
    """The bank knows the instruction and says how far it is, receiver by receiver."""

    bank_code: str
    payouts: tuple[PayoutTold, ...]


@dataclass(frozen=True, slots=True)
class NotFound:
    """The bank says that it has never seen this reference."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """No answer that could be believed: whether the money moves is open."""

    reason: str  # a short word: timeout, http_503, connect_error …


Answer = Told | NotFound | Unknown
