import asyncio
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import pytest

from orderloop.errors import Permanent
from orderloop.migrate import migrate, migrations
from tests.support.databases import Database

Write = Callable[..., str]
FIRST = "create table one (id int);"
SECOND = "create table two (id int); insert into two values (1), (2);"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """`package("sql of 0001", "sql of 0002", …)`: the name of a package with these migrations."""
    monkeypatch.syspath_prepend(str(tmp_path))
    folder = tmp_path / "made_for_migrations"
    (folder / "migrations").mkdir(parents=True)
    (folder / "__init__.py").touch()

    def write(*files: str, **named: str) -> str:
        for old in (folder / "migrations").iterdir():
            old.unlink()
        for number, sql in enumerate(files, 1):
            (folder / "migrations" / f"{number:04d}_step.sql").write_text(sql)
        for name, sql in named.items():
            (folder / "migrations" / f"{name}.sql").write_text(sql)
        return folder.name

    yield write
    sys.modules.pop(folder.name, None)


async def tables(database: Database) -> list[str]:
    conn = await asyncpg.connect(database.owner_url)
    rows = await conn.fetch("select tablename from pg_tables where schemaname = 'public' order by 1")
    await conn.close()
    return [row[0] for row in rows]


async def test_each_file_is_applied_once_and_in_order(empty: Database, package: Write) -> None:
    assert await migrate(empty.owner_url, package(FIRST)) == ["0001_step.sql"]
    assert await migrate(empty.owner_url, package(FIRST, SECOND)) == ["0002_step.sql"]
    assert await migrate(empty.owner_url, package(FIRST, SECOND)) == []

    assert await tables(empty) == ["one", "schema_migration", "two"]


async def test_many_runners_at_once_apply_each_file_once(empty: Database, package: Write) -> None:
    name = package(FIRST, SECOND)

    applied = await asyncio.gather(*(migrate(empty.owner_url, name) for _ in range(5)))

    assert sorted(applied) == [[], [], [], [], ["0001_step.sql", "0002_step.sql"]]


async def test_a_file_changed_after_it_was_applied_is_refused(empty: Database, package: Write) -> None:
    await migrate(empty.owner_url, package(FIRST))

    with pytest.raises(Permanent, match=r"0001_step\.sql was changed"):
        await migrate(empty.owner_url, package(FIRST + " -- harmless?", SECOND))

    assert await tables(empty) == ["one", "schema_migration"]


async def test_a_file_that_fails_leaves_nothing_of_itself(empty: Database, package: Write) -> None:
    with pytest.raises(asyncpg.UndefinedTableError):
        await migrate(empty.owner_url, package(FIRST, "create table half (id int); insert into nowhere values (1);"))
    assert await tables(empty) == ["one", "schema_migration"]

    assert await migrate(empty.owner_url, package(FIRST, SECOND)) == ["0002_step.sql"]


async def test_a_database_ahead_of_the_package_is_refused(empty: Database, package: Write) -> None:
    await migrate(empty.owner_url, package(FIRST, SECOND))

    with pytest.raises(Permanent, match="it knows migration 2"):
        await migrate(empty.owner_url, package(FIRST))


@pytest.mark.parametrize("name", ["0003_gap", "0001_twice"])
def test_numbers_have_no_gap_and_no_double(package: Write, name: str) -> None:
    with pytest.raises(Permanent, match="not numbered 1 to 2"):
        migrations(package(FIRST, **{name: SECOND}))


@pytest.mark.parametrize("name", ["second", "2_second", "0002-second", "0002_Second"])
def test_a_misnamed_file_is_refused_by_name(package: Write, name: str) -> None:
    with pytest.raises(Permanent, match=f"{name}.sql of made_for_migrations"):
        migrations(package(FIRST, **{name: SECOND}))


async def test_the_app_role_cannot_migrate(empty: Database, package: Write) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await migrate(empty.app_url, package(FIRST))
