"""Banks and channels that move the money. One module per bank, all of them a `Bank`."""

from collections.abc import Callable
from typing import Protocol

from settlement.answers import Answer, Instruction

Sent = Callable[[], None]


class Bank(Protocol):
    async def instruct(self, instruction: Instruction, *, on_sent: Sent) -> Answer:
        """Ask for the money to be moved. The same reference moves it once, however often this is called.

        `on_sent` is called when the request has left the house and the answer is awaited. Never raises for what the
        network or the bank does: that is `Unknown`.
        """
        ...

    async def ask(self, instruction: Instruction) -> Answer:
        """What became of an instruction. Moves nothing."""
        ...
