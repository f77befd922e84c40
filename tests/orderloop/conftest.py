"""The shared library on a database that has nothing but its two tables and a place to see effects in."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import asyncpg
import pytest

from orderloop import postgres
from orderloop.ids import new_order_no
from orderloop.settings import KafkaSettings, PostgresSettings
from orderloop_lab.backing import kafka
from orderloop_lab.home import Home
from orderloop_lab.processes import Supervisor
from orderloop_lab.progress import steps
from tests.support.databases import Database, Databases
from tests.support.kafka import AT, settings_for
from tests.support.sessions import run

GROUP = "order-core"

_EFFECTS = """
create table applied (
    n bigint generated always as identity primary key,
    order_no text not null,
    event_id text not null
);
create table story (order_no text primary key, version int not null);
grant select, insert, update, delete on all tables in schema public to settlement_app;
grant usage on all sequences in schema public to settlement_app;
"""


@pytest.fixture
def empty(databases: Databases) -> Iterator[Database]:
    database = databases.empty("settlement")
    yield database
    databases.drop([database.name])


@pytest.fixture
def plumbed(empty: Database) -> Database:
    tables = (resources.files("orderloop").joinpath("sql", f"{name}.sql").read_text() for name in ("inbox", "outbox"))

    async def lay() -> None:
        conn = await asyncpg.connect(empty.owner_url)
        await conn.execute("".join(tables) + _EFFECTS)
        await conn.close()

    run(lay())
    return empty


@pytest.fixture
def postgres_settings(plumbed: Database) -> PostgresSettings:
    return PostgresSettings.model_validate({"url": plumbed.app_url})


@pytest.fixture
async def pool(postgres_settings: PostgresSettings) -> AsyncIterator[asyncpg.Pool]:
    async with postgres.pool(postgres_settings, application_name="tests") as pool:
        yield pool


@pytest.fixture
async def admin(plumbed: Database) -> AsyncIterator[asyncpg.Connection]:
    """Sees and may do everything, such as cutting others' connections."""
    conn = await asyncpg.connect(plumbed.admin_url)
    yield conn
    await conn.close()


@pytest.fixture
def broker(kafka_bootstrap: str, topic_prefix: str) -> KafkaSettings:
    return settings_for(kafka_bootstrap, topic_prefix)


@pytest.fixture
def topics_made(
    broker: KafkaSettings, create_topics: Callable[..., Awaitable[None]]
) -> Callable[..., Awaitable[KafkaSettings]]:
    """`await topics_made("a", "b")`: the settings of a broker on which these topics exist."""

    async def make(*names: str) -> KafkaSettings:
        await create_topics(broker.topic_prefix, names)
        return broker

    return make


@dataclass(frozen=True, slots=True)
class OwnBroker:
    """A broker that a test may kill."""

    settings: KafkaSettings
    supervisor: Supervisor

    async def kill(self) -> None:
        await self.supervisor.kill(kafka.NAME)

    async def restart(self) -> None:
        await self.supervisor.restart(kafka.NAME)


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[OwnBroker]:
    supervisor = Supervisor(home := Home(tmp_path))
    bootstrap = run(kafka.start(home, supervisor, steps(quiet=True)))
    yield OwnBroker(settings_for(bootstrap, "t."), supervisor)
    run(supervisor.stop_all())


@pytest.fixture
def order_no() -> str:
    return new_order_no(AT)
