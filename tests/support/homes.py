"""A lab home of a test's own, for tests that kill what runs in it."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from orderloop_lab.home import Home
from orderloop_lab.processes import Supervisor


@asynccontextmanager
async def own_home(folder: Path) -> AsyncGenerator[tuple[Home, Supervisor]]:
    home = Home(folder)
    supervisor = Supervisor(home)
    try:
        yield home, supervisor
    finally:
        await supervisor.stop_all()
        await asyncio.to_thread(home.remove)
