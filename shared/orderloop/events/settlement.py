"""The money's way to its receivers: asked for by order-core, done by settlement."""

from enum import StrEnum
from typing import ClassVar

from orderloop import topics
from orderloop.money import Fen

from .event import Count, Event, Text, Time


class SettlementRequested(Event, frozen=True, kw_only=True):
    """Receipt is confirmed: split this much. Who gets what is settlement's rule. Id: `{instruction_id}:requested`.

    Asked for again after the bank has refused: `{instruction_id}:requested:{attempt}`.
    """

    TOPIC: ClassVar[str] = topics.SETTLEMENT_REQUESTED

    instruction_id: Text
    channel: Text
    transaction_ids: tuple[Text, ...]
    amount_fen: Fen
    attempt: Count = 1


class SettlementStatus(StrEnum):
    SUCCESS = "SUCCESS"  # the money has arrived; nothing less completes an order
    FAILED = "FAILED"  # the bank refused for good
    PROCESSING = "PROCESSING"  # the outcome is not known yet, which is not a failure


class SettlementResult(Event, frozen=True, kw_only=True):
    """What the bank said of one attempt. Id: `{instruction_id}:{attempt}:{status}`."""

    TOPIC: ClassVar[str] = topics.SETTLEMENT_RESULT

    instruction_id: Text
    attempt: Count
    status: SettlementStatus
    bank_code: Text
    amount_fen: Fen
    arrived_at: Time | None = None
    reason: Text | None = None
