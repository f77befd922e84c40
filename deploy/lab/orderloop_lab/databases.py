"""One database per service, each with an owner (migrations) and an app role (what the service itself may do).

A role's password is derived from the administrator's: every lab and test session on one server agrees on it,
and there is nothing more to keep.
"""

import hmac
from collections.abc import Iterable
from urllib.parse import urlsplit

import asyncpg

from orderloop.migrate import migrate

# Database: the package that migrates it.
PACKAGES = {
    "payment_callback": "payment_callback",
    "order_core": "order_core",
    "logistics": "logistics_poller",
    "settlement": "settlement",
}
FINANCE = "finance_ro"
ROLES = (*(f"{database}_{role}" for database in PACKAGES for role in ("owner", "app")), FINANCE)


def url_for(admin_url: str, *, role: str, database: str) -> str:
    parts = urlsplit(admin_url)
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=f"{role}:{_password(admin_url, role)}@{host}", path=f"/{database}").geturl()


def admin_url_for(admin_url: str, database: str) -> str:
    return urlsplit(admin_url)._replace(path=f"/{database}").geturl()


async def create_roles(admin_url: str) -> None:
    connection = await asyncpg.connect(admin_url)
    try:
        async with connection.transaction():
            # Two sessions on one server: roles belong to the server, not to a database.
            await connection.execute("SELECT pg_advisory_xact_lock(hashtext('orderloop roles'))")
            known = {row["rolname"] for row in await connection.fetch("SELECT rolname FROM pg_roles")}
            for role in ROLES:
                verb = "ALTER" if role in known else "CREATE"
                await connection.execute(f"{verb} ROLE {role} LOGIN PASSWORD '{_password(admin_url, role)}'")
    finally:
        await connection.close()


async def create_database(admin_url: str, service: str, name: str, *, template: str = "template0") -> None:
    """Makes the database `name` for `service` (a key of PACKAGES) unless it exists; open to its own roles only."""
    connection = await asyncpg.connect(admin_url)
    try:
        if await connection.fetchval("SELECT true FROM pg_database WHERE datname = $1", name):
            return
        await connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}" OWNER {service}_owner')
        await connection.execute(f'REVOKE ALL ON DATABASE "{name}" FROM PUBLIC')
        for role in _roles_of(service):
            await connection.execute(f'GRANT CONNECT ON DATABASE "{name}" TO {role}')
    finally:
        await connection.close()


async def migrate_database(admin_url: str, service: str, name: str) -> None:
    await migrate(url_for(admin_url, role=f"{service}_owner", database=name), PACKAGES[service])


async def drop_databases(admin_url: str, names: Iterable[str]) -> None:
    connection = await asyncpg.connect(admin_url)
    try:
        for name in names:
            await connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
    finally:
        await connection.close()


def _roles_of(service: str) -> tuple[str, ...]:
    return (f"{service}_app", FINANCE) if service == "settlement" else (f"{service}_app",)


def _password(admin_url: str, role: str) -> str:
    return hmac.digest((urlsplit(admin_url).password or "").encode(), role.encode(), "sha256").hex()[:32]
