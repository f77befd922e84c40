"""PostgreSQL away for minutes while events go on coming in: everything waits, nothing is parked, nobody dies.

A consumer that gives an outage's errors to the dead letters would drain its topics into them within seconds. Otherwise
this is a run of the campaign `crash`, whose outages last seconds.
"""

from dataclasses import replace
from pathlib import Path

from rich.progress import Progress

from . import crash
from .crash_plan import Fault, Trouble, plan
from .verdict import Verdict

PURPOSE = "PostgreSQL away for minutes while events come in: nothing parked, nobody restarted"

_CHUNK = 3  # when it goes away


async def campaign(folder: Path, *, n: int, seed: int, progress: Progress) -> Verdict:
    """Away for `n` minutes."""
    planned = replace(plan(seed), fault=Fault(Trouble.POSTGRES, "", _CHUNK, away_seconds=60.0 * n))
    return await crash.campaign_of([planned], folder, progress=progress)
