"""What order-core's tests share: a database of their own, and events as other services would send them."""

from collections.abc import AsyncIterator, Callable

import asyncpg
import pytest

from tests.support.databases import Database


@pytest.fixture
def order_core(database: Callable[[str], Database]) -> Database:
    return database("order_core")


@pytest.fixture
async def conn(order_core: Database) -> AsyncIterator[asyncpg.Connection]:
    """As the service itself connects: with the app role's rights."""
    connection = await asyncpg.connect(order_core.app_url)
    yield connection
    await connection.close()


@pytest.fixture
async def pool(order_core: Database) -> AsyncIterator[asyncpg.Pool]:
    async with asyncpg.create_pool(order_core.app_url, min_size=0, max_size=8) as connections:
        yield connections
