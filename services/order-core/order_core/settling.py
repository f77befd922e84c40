"""Receipt is confirmed, the money is to be split, and the bank says what became of that."""

from typing import assert_never

from msgspec import to_builtins
from msgspec.structs import replace

from orderloop.events import SettlementRequested, SettlementResult, SettlementStatus

from . import states
from .money import RefundState, applied, to_settle
from .orders import Incoming, Instruction, InstructionState, Order, Outcome, Parked, Refused, ReleaseRefund, changed
from .states import Status

_GOING_BACK = frozenset({Status.REFUNDING, Status.REFUNDED})


def confirm(order: Order, cause: Incoming) -> Outcome:
    """What settles is what was paid, less what was or is being refunded."""
    amount_fen = to_settle(order.payments, order.refunds)
    if not amount_fen and states.Event.RECEIPT_CONFIRMED in states.TRANSITIONS[order.status]:
        return Refused(cause, "nothing-to-settle")
    first = Instruction(f"{order.order_no}_P1", amount_fen, asked=1, state=InstructionState.SENT)
    return _request(order, cause, states.Event.RECEIPT_CONFIRMED, first)


def again(order: Order, cause: Incoming) -> Outcome:
    """The bank refused for good, and a person has mended the cause.

    The same amount is another attempt of the same instruction; another amount (something was refunded meanwhile) is
    another instruction.
    """
    last = max(order.instructions, key=lambda i: int(i.instruction_id.rpartition("_P")[2]), default=None)
    amount_fen = to_settle(order.payments, order.refunds)
    if last is None or last.state is not InstructionState.FAILED or not amount_fen:
        return Refused(cause, "nothing-to-settle")
    if amount_fen == last.amount_fen:
        instruction = replace(last, asked=last.asked + 1, state=InstructionState.SENT)
    else:
        number = len(order.instructions) + 1
        instruction = Instruction(f"{order.order_no}_P{number}", amount_fen, asked=1, state=InstructionState.SENT)
    return _request(order, cause, states.Event.SETTLEMENT_RETRIED, instruction)


def _request(order: Order, cause: Incoming, event: states.Event, instruction: Instruction) -> Outcome:
    payment = applied(order.payments)
    request = SettlementRequested(
        order_no=order.order_no,
        instruction_id=instruction.instruction_id,
        channel=order.channel or "",
        transaction_ids=(payment.transaction_id,) if payment else (),
        amount_fen=instruction.amount_fen,
        attempt=instruction.asked,
    )
    asked = "" if instruction.asked == 1 else f":{instruction.asked}"
    return changed(
        order,
        cause,
        event,
        after=replace(order, instructions=_with(order, instruction)),
        detail={
            "instruction_id": instruction.instruction_id,
            "amount_fen": instruction.amount_fen,
            "asked": instruction.asked,
        },
        consequences=((f"{instruction.instruction_id}:requested{asked}", request),),
    )


def told(order: Order, cause: Incoming, body: SettlementResult) -> Outcome:
    """The bank's word. SUCCESS and FAILED are its last ones: a refund that waited for one goes out with it."""
    instruction = next((i for i in order.instructions if i.instruction_id == body.instruction_id), None)
    if instruction is None:
        return Parked(cause, "settlement_not_requested", body.amount_fen)
    if instruction.amount_fen != body.amount_fen:
        return Parked(cause, "settlement_differs", body.amount_fen)
    if body.status is SettlementStatus.FAILED and body.attempt < instruction.asked:
        return Parked(cause, "illegal_transition", body.amount_fen)  # replayed late: the bank has the next attempt
    match body.status:
        case SettlementStatus.SUCCESS:
            event, state = states.Event.SETTLEMENT_SUCCEEDED, InstructionState.SUCCESS
        case SettlementStatus.PROCESSING:
            event, state = states.Event.SETTLEMENT_PROCESSING, InstructionState.PROCESSING
        case SettlementStatus.FAILED:
            event, state = states.Event.SETTLEMENT_FAILED, InstructionState.FAILED
        case _:
            assert_never(body.status)
    if state is InstructionState.PROCESSING and _has_ended(instruction, body.attempt):
        state = instruction.state  # published before the last word, read after it
    # What is answered was asked for, even if a restored database knows nothing of it: a next attempt comes after it.
    heard = replace(instruction, state=state, asked=max(instruction.asked, body.attempt))
    outcome = changed(
        order,
        cause,
        event,
        after=replace(order, instructions=_with(order, heard)),
        detail={name: said for name, said in to_builtins(body).items() if name != "order_no" and said is not None},
        anomaly=_needs_a_person(order, state, body),
        money_fen=body.amount_fen,
        follow=() if state is InstructionState.PROCESSING else _released(order, cause),
    )
    return _remembered(outcome, order, instruction, heard) if isinstance(outcome, Parked) else outcome


def _has_ended(instruction: Instruction, attempt: int) -> bool:
    """The bank pays an instruction once, so SUCCESS ends it for every attempt; FAILED ends those asked for by then."""
    failed = instruction.state is InstructionState.FAILED and attempt <= instruction.asked
    return failed or instruction.state is InstructionState.SUCCESS


def _remembered(parked: Parked, order: Order, before: Instruction, heard: Instruction) -> Parked:
    """The order is settled by another instruction, or its money goes back. This one has left the bank all the same: no
    refund need wait for it any more."""
    after = replace(order, instructions=_with(order, heard)) if before.at_the_bank else order
    both_ways = heard.state is InstructionState.SUCCESS and order.status in _GOING_BACK
    return replace(parked, kind="settled_and_refunded" if both_ways else parked.kind, after=after)


def _needs_a_person(order: Order, state: InstructionState, body: SettlementResult) -> str | None:
    kind = None
    waiting = sum(r.amount_fen for r in order.refunds if r.state is RefundState.HELD)
    if body.status is SettlementStatus.FAILED:
        kind = "settlement_failed"
    elif state is InstructionState.SUCCESS and body.amount_fen > to_settle(order.payments, order.refunds) + waiting:
        # the bank refused first, money went back, and then the bank had paid after all
        kind = "settled_and_refunded"
    return kind


def _released(order: Order, cause: Incoming) -> tuple[Incoming, ...]:
    held = sorted(r.out_refund_no for r in order.refunds if r.state is RefundState.HELD)
    return tuple(cause.follow(f"{number}:released", "release-refund", ReleaseRefund(number)) for number in held)


def _with(order: Order, instruction: Instruction) -> tuple[Instruction, ...]:
    others = (i for i in order.instructions if i.instruction_id != instruction.instruction_id)
    return (*others, instruction)
