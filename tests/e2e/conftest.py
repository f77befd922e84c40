"""The whole system, once for all end-to-end tests: separate processes on a broker, database and cache of their own,
because these tests kill them."""

from collections.abc import Iterator
from uuid import uuid4

import pytest

from orderloop_lab.system import Lab
from tests.support import sessions

# Four hours a second: a parcel arrives about ten seconds after its label.
TIME_FACTOR = 4 * 3600.0


@pytest.fixture(scope="session")
def running_lab() -> Iterator[Lab]:
    home = sessions.new_home("e2e")
    lab = Lab(home.folder, environment={}, time_factor=TIME_FACTOR)
    try:
        sessions.run(lab.up())
        yield lab
    finally:
        sessions.remove(home)


@pytest.fixture
async def lab(running_lab: Lab) -> Lab:
    """The lab with everything running, whatever the test before has killed."""
    await running_lab.up()
    return running_lab


@pytest.fixture
def source() -> str:
    """A shop of this test's own."""
    return f"test-{uuid4().hex[:8]}"
