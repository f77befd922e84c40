"""Schema migrations: numbered SQL files inside the package, each in one transaction, never edited once applied."""

import hashlib
import re
from dataclasses import dataclass
from importlib import resources

import asyncpg
import structlog

from .errors import Permanent

log = structlog.get_logger()

_LOCK = 7_233_001  # one runner at a time per database, however many pods start

_NAME = re.compile(r"[0-9]{4}_[a-z0-9_]+\.sql")

_HISTORY = """
create table if not exists schema_migration (
    version int primary key,
    name text not null,
    checksum text not null,
    applied_at timestamptz not null default now()
)
"""


@dataclass(frozen=True, slots=True)
class Migration:
    version: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()


def migrations(package: str) -> list[Migration]:
    """The `migrations/NNNN_name.sql` files of `package`, in order.

    Raises Permanent when the numbers have a gap or a file is not named so.
    """
    files = [file for file in resources.files(package).joinpath("migrations").iterdir() if file.name.endswith(".sql")]
    if misnamed := [file.name for file in files if _NAME.fullmatch(file.name) is None]:
        raise Permanent(f"{misnamed[0]} of {package} is not named NNNN_name.sql")
    found = [Migration(int(file.name[:4]), file.name, file.read_text(encoding="utf-8")) for file in files]
    found.sort(key=lambda migration: migration.version)
    if [migration.version for migration in found] != list(range(1, len(found) + 1)):
        raise Permanent(f"the migrations of {package} are not numbered 1 to {len(found)}")
    return found


async def migrate(owner_url: str, package: str) -> list[str]:
    """Bring the database to the package's newest schema; returns the names of what was applied now.

    Raises Permanent if a file was changed after it had been applied, or the database is ahead of this package.
    """
    conn = await asyncpg.connect(owner_url)
    try:
        await conn.execute("select pg_advisory_lock($1)", _LOCK)
        await conn.execute(_HISTORY)
        done = {row["version"]: row for row in await conn.fetch("select version, name, checksum from schema_migration")}
        known = migrations(package)
        if ahead := done.keys() - {migration.version for migration in known}:
            raise Permanent(
                f"the database is ahead of {package}: it knows migration {max(ahead)}; deploy the newer one"
            )
        applied: list[str] = []
        for migration in known:
            if before := done.get(migration.version):
                if before["checksum"] != migration.checksum:
                    raise Permanent(f"{migration.name} was changed after it had been applied; write a new migration")
                continue
            async with conn.transaction():
                await conn.execute(migration.sql)
                await conn.execute(
                    "insert into schema_migration (version, name, checksum) values ($1, $2, $3)",
                    migration.version,
                    migration.name,
                    migration.checksum,
                )
            log.info("migration applied", package=package, migration=migration.name)
            applied.append(migration.name)
        return applied
    finally:
        await conn.close()
