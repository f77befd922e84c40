"""What time alone will bring about: which timers a change starts. They are never stopped, only found pointless."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from . import states
from .money import to_settle
from .orders import Change, Close, Command, ConfirmReceipt
from .parcels import last_signature
from .states import Status


class Kind(StrEnum):
    EXPIRE = "expire"  # nobody has paid for half an hour: close
    ASK_AGAIN = "ask_again"  # the channels have not answered a close
    CONFIRM = "confirm"  # delivered for days, and the customer says nothing


@dataclass(frozen=True, slots=True)
class Timer:
    order_no: str
    kind: Kind
    due_at: datetime


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait before acting without being asked."""

    unpaid: timedelta = timedelta(minutes=30)
    close_answer: timedelta = timedelta(minutes=1)  # doubling
    longest_close_answer: timedelta = timedelta(hours=6)
    receipt: timedelta = timedelta(days=3)


PATIENCE = Patience()


def started(changes: Iterable[Change], *, now: datetime, patience: Patience) -> list[Timer]:
    """The timers that a batch of changes starts; a later one of the same kind replaces an earlier one."""
    timers: dict[tuple[str, Kind], Timer] = {}
    for change in changes:
        timer = _started(change, now, patience)
        if timer is not None:
            timers[timer.order_no, timer.kind] = timer
    return list(timers.values())


def _started(change: Change, now: datetime, patience: Patience) -> Timer | None:
    after = change.after
    if change.event is states.Event.CLOSE_REQUESTED and after.closing is not None:
        doubled = patience.close_answer * 2 ** min(after.closing.asked - 1, 20)
        return Timer(after.order_no, Kind.ASK_AGAIN, now + min(doubled, patience.longest_close_answer))
    if after.status is Status.DELIVERED and (change.before.status is not Status.DELIVERED or _is_free_again(change)):
        # From the later of the courier's time and ours: a scan that comes days late must not confirm at once.
        return Timer(after.order_no, Kind.CONFIRM, max(now, last_signature(after.parcels) or now) + patience.receipt)
    return None


def _is_free_again(change: Change) -> bool:
    """Whether a refund that ended leaves something to settle where nothing was.

    While nothing was, a timer that came due has been taken away without effect.
    """
    before, after = change.before, change.after
    return to_settle(before.payments, before.refunds) == 0 < to_settle(after.payments, after.refunds)


def command(kind: Kind) -> tuple[str, Command]:
    """What an expired timer asks for: the command's name and itself. The order's status may forbid it by now."""
    match kind:
        case Kind.EXPIRE:
            return "expire", Close()
        case Kind.ASK_AGAIN:
            return "close", Close(again=True)
        case Kind.CONFIRM:
            return "confirm-receipt", ConfirmReceipt()


def event_id(timer: Timer) -> str:
    match timer.kind:
        case Kind.EXPIRE:
            return f"{timer.order_no}:expired"
        case Kind.ASK_AGAIN:
            return f"{timer.order_no}:asked-again:{timer.due_at:%Y%m%d%H%M%S.%f}"
        case Kind.CONFIRM:
            # the customer's own word has the same id: one of them counts
            return f"{timer.order_no}:receipt-confirmed"


def matters(kind: Kind, status: str) -> bool:
    """Whether a timer can still do anything, for whoever reads the order's story."""
    return status == (Status.DELIVERED if kind is Kind.CONFIRM else Status.PENDING)
