"""A database of each test's own; warehouse and couriers shared by the tests of a session."""

from collections.abc import AsyncIterator, Callable, Iterator

import asyncpg
import httpx
import pytest
import pytest_asyncio

from orderloop import postgres
from orderloop.settings import PostgresSettings
from tests.support.databases import Database
from tests.support.logistics import Outside, outside_world


@pytest.fixture(scope="session")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outside]:
    """At the real pace: parcels are given a label in the past."""
    with outside_world(tmp_path_factory.mktemp("outside")) as world:
        yield world


@pytest.fixture
def db(database: Callable[[str], Database]) -> Database:
    return database("logistics")


@pytest_asyncio.fixture
async def pool(db: Database) -> AsyncIterator[asyncpg.Pool]:
    """As the service itself: with the app role's rights."""
    async with postgres.pool(PostgresSettings(url=db.app_url), application_name="test") as pool:
        yield pool


@pytest_asyncio.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=5, trust_env=False) as client:
        yield client
