"""What goes wrong with the answers of a channel's API, planned call by call."""

from collections import defaultdict, deque
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field


class Fault(StrEnum):
    UNREACHED = "unreached"  # nothing is done; a proxy answers
    LOST = "lost"  # done, and the answer never arrives
    HANG = "hang"  # done, and the answer comes later than anybody waits
    LATER = "later"  # done, and answered with "try again"
    FORGED = "forged"  # done, and the answer signed by a stranger
    PROBE = "probe"  # done, and the signature is a probe
    UNSIGNED = "unsigned"  # done, and nobody signed the answer


class Plan(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    call: str
    fault: Fault
    times: int = Field(1, ge=1)


class ApiFaults:
    """Kept in memory: a restarted simulator is well again."""

    def __init__(self) -> None:
        self._planned: dict[str, deque[Fault]] = defaultdict(deque)

    def plan(self, body: bytes) -> None:
        asked = Plan.model_validate_json(body)
        self._planned[asked.call].extend([asked.fault] * asked.times)

    def next(self, call: str) -> Fault | None:
        planned = self._planned[call]
        return planned.popleft() if planned else None
