"""Taking in what order-core asks for: a batch becomes settlements, payouts and timers, in one transaction."""

from collections.abc import Sequence

from orderloop import inbox
from orderloop.errors import Permanent
from orderloop.postgres import Connection

from . import store
from .split import SplitRule, split
from .store import Request


class InstructionReused(Permanent):
    """An instruction came again with another amount. Which one is meant is nothing to guess about."""

    def __init__(self, request: Request, known_fen: int) -> None:
        super().__init__(f"{request.instruction_id} is about {known_fen} fen already, not {request.amount_fen}")


async def take_in(conn: Connection, requests: Sequence[tuple[str, Request]], *, rule: SplitRule) -> set[store.Key]:
    """Settle what is asked for, each request with its event id; a repeat has no effect. Returns what is to be done.

    Raises InstructionReused, ValueError for an amount that cannot be split, and asyncpg errors; a second instruction
    for receivers whose first one is not refused ends as a UniqueViolationError. Then nothing of the batch has happened.
    """
    async with conn.transaction():
        fresh = await inbox.claim(conn, [(request.order_no, event_id) for event_id, request in requests])
        wanted = [request for event_id, request in requests if (request.order_no, event_id) in fresh]
        added = await store.add_settlements(conn, wanted)
        await _same_as_before(conn, wanted)
        of_new = {request.key: request for request in wanted if request.key in added}
        await store.add_payouts(conn, {key: split(rule, request.amount_fen) for key, request in of_new.items()})
        again = [request for request in wanted if request.attempt > 1]
        return added | (await store.ask_again(conn, again) if again else set())


async def _same_as_before(conn: Connection, wanted: Sequence[Request]) -> None:
    known = await store.amounts(conn, {request.key for request in wanted})
    for request in wanted:
        if known[request.key] != request.amount_fen:
            raise InstructionReused(request, known[request.key])
