"""Places where a test may make a process fail: `FAILPOINT=name:kill|exit|hang|stop|raise@nth`, several split by commas.

A no-op unless the variable is set; crash tests set it for one child process.
"""

import os
import signal
import time
from collections import Counter

from .errors import OrderLoopError


class FailpointReached(OrderLoopError):
    """What `raise` raises: an error that is neither the data's nor the infrastructure's."""


def _parse(text: str) -> dict[str, tuple[str, int]]:
    plan: dict[str, tuple[str, int]] = {}
    for entry in filter(None, text.split(",")):
        name, _, action = entry.partition(":")
        what, _, nth = action.partition("@")
        if what not in {"kill", "exit", "hang", "stop", "raise"}:
            raise ValueError(f"FAILPOINT {entry!r}: the action is kill, exit, hang, stop or raise")
        plan[name] = (what, int(nth or 1))
    return plan


_plan = _parse(os.environ.get("FAILPOINT", ""))
_seen: Counter[str] = Counter()


def arm(plan: str) -> None:
    """Plan anew: for a process forked from one that has read its environment already."""
    _plan.clear()
    _plan.update(_parse(plan))


def failpoint(name: str) -> None:
    """Fail here if the plan says so for this visit."""
    if name not in _plan:
        return
    _seen[name] += 1
    action, nth = _plan[name]
    if _seen[name] != nth:
        return
    match action:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "exit":
            os._exit(70)
        case "hang":
            time.sleep(3600)  # blocks the whole process, as a frozen machine would
        case "stop":
            os.kill(os.getpid(), signal.SIGSTOP)  # until somebody sends SIGCONT
        case _:
            raise FailpointReached(name)
