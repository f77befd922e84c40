"""What can be asked of every payment channel."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol

from orderloop.errors import Permanent, Transient


class GatewaySilent(Transient):
    """Nothing is known: no answer, one that is not the channel's own, or one that says "later"."""


class GatewayRefuses(Permanent):
    """The channel understood and said no. `code` is its own; its sentence is not kept, it may name somebody."""

    def __init__(self, code: str) -> None:
        super().__init__(f"the channel says {code}")
        self.code = code


@dataclass(frozen=True, slots=True)
class Paid:
    """Paid at some time; whether something has been given back since does not matter here."""

    transaction_id: str
    mchid: str
    amount_fen: int
    payer_total_fen: int
    currency: str
    paid_at: datetime


@dataclass(frozen=True, slots=True)
class Unpaid:
    """The channel still takes the money."""


@dataclass(frozen=True, slots=True)
class Closed:
    """The channel takes no money for this order: closed, or it has never heard of it."""


Standing = Paid | Unpaid | Closed


@dataclass(frozen=True, slots=True)
class Trade:
    """The channel's word on an order, and what proves it: fields without personal data, and the signature."""

    standing: Standing
    evidence: Mapping[str, Any]


class RefundState(StrEnum):
    """As the house publishes it; the words are WeChat Pay's."""

    SUCCESS = "SUCCESS"
    ABNORMAL = "ABNORMAL"  # the money could not be given back as it came; a person has to see to it
    CLOSED = "CLOSED"
    PROCESSING = "PROCESSING"
    UNKNOWN = "UNKNOWN"  # the channel has never heard of it

    @property
    def final(self) -> bool:
        return self not in {RefundState.PROCESSING, RefundState.UNKNOWN}


@dataclass(frozen=True, slots=True)
class RefundAsked:
    """A refund by our number for it, which stays the same until the outcome is known."""

    order_no: str
    transaction_id: str
    out_refund_no: str
    refund_fen: int | None = None  # None: only to be asked about
    total_fen: int | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Refund:
    state: RefundState
    refund_id: str = ""  # empty while the channel has none
    refund_fen: int = 0
    total_fen: int = 0
    finished_at: datetime | None = None


class Gateway(Protocol):
    """A payment channel's API for one merchant. Every method raises GatewaySilent.

    Nothing is believed that the channel has not signed, with one exception: that it does not know an order or a
    refund, which some channels say without a signature; the evidence then says so.
    """

    @property
    def name(self) -> str: ...

    async def look(self, order_no: str) -> Trade: ...

    async def close(self, order_no: str) -> None:
        """The channel takes no money for the order any more. Raises GatewayRefuses, e.g. because it was just paid."""
        ...

    async def refund(self, asked: RefundAsked) -> Refund:
        """Give money back; a repeat under the same number gives back nothing more. Raises GatewayRefuses."""
        ...

    async def look_at_refund(self, asked: RefundAsked) -> Refund: ...
