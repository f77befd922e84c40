"""Real services for every test: started when the first test of a session asks, stopped when it ends.

Set ORDERLOOP_POSTGRES_URL (an administrator), ORDERLOOP_KAFKA_BOOTSTRAP or ORDERLOOP_REDIS_URL to use running ones.
"""

import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest
from hypothesis import settings
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

from orderloop_lab import backing as services
from orderloop_lab.backing import Backing
from orderloop_lab.home import Home
from orderloop_lab.processes import Supervisor
from orderloop_lab.progress import steps
from orderloop_lab.topics import CONTRACT, create_topics, delete_topics
from tests.support import sessions
from tests.support.databases import Database, Databases, sync_to_disk

# The same examples on every machine; `--hypothesis-profile=nightly` plays others, and many more of them.
settings.register_profile("suite", derandomize=True, deadline=None, database=None, print_blob=True)
settings.register_profile("nightly", max_examples=5000, deadline=None, database=None, print_blob=True)
settings.load_profile("suite")


class _OneLab(LoadFileScheduling):
    """A file to a worker; but all of tests/e2e to one: they share a whole system, which is not started twice."""

    def _split_scope(self, nodeid: str) -> str:
        return "tests/e2e" if nodeid.startswith("tests/e2e/") else super()._split_scope(nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadFileScheduling:
    return _OneLab(config, log)


@pytest.fixture(scope="session")
def session_home() -> Iterator[Home]:
    home = sessions.new_home()
    yield home
    sessions.remove(home)


def _provide(service: str, home: Home) -> str:
    return sessions.run(services.provide(service, home, Supervisor(home), steps(quiet=True), os.environ))


@pytest.fixture(scope="session")
def postgres_admin_url(session_home: Home) -> str:
    """Without waiting for the disk a database is made in a tenth of the time. Tests kill processes, never the machine:
    what a killed PostgreSQL had written is the system's, synced or not. Whole labs, campaigns and benchmarks sync.
    """
    url = _provide(services.POSTGRES, session_home)
    sessions.run(sync_to_disk(url, wanted=False))
    return url


@pytest.fixture(scope="session")
def kafka_bootstrap(session_home: Home) -> str:
    return _provide(services.KAFKA, session_home)


@pytest.fixture(scope="session")
def redis_url(session_home: Home) -> str:
    return _provide(services.REDIS, session_home)


@pytest.fixture(scope="session")
def backing(postgres_admin_url: str, kafka_bootstrap: str, redis_url: str) -> Backing:
    """All three. A test that needs only one asks for that one and starts faster."""
    return Backing(postgres_admin_url, kafka_bootstrap, redis_url)


@pytest.fixture(scope="session")
def databases(postgres_admin_url: str) -> Iterator[Databases]:
    databases = Databases(postgres_admin_url)
    yield databases
    databases.drop_templates()


@pytest.fixture
def database(databases: Databases) -> Iterator[Callable[[str], Database]]:
    """`database("order_core")`: a migrated database of this test's own."""
    made: list[str] = []

    def clone(service: str) -> Database:
        database = databases.clone(service)
        made.append(database.name)
        return database

    yield clone
    databases.drop(made)


@pytest.fixture
def topic_prefix() -> str:
    """Keeps the topics of this test apart from every other's on the same broker."""
    return f"t{secrets.token_hex(4)}."


@pytest.fixture(name="create_topics")
async def _create_topics(kafka_bootstrap: str) -> AsyncIterator[Callable[..., Awaitable[None]]]:
    """`await create_topics(topic_prefix)`: every topic of the contract; or `(topic_prefix, (name, …))`: only these."""
    prefixes: list[str] = []

    async def create(prefix: str, names: tuple[str, ...] = CONTRACT) -> None:
        prefixes.append(prefix)
        await create_topics(kafka_bootstrap, prefix, names)

    yield create
    for prefix in prefixes:
        await delete_topics(kafka_bootstrap, prefix)
