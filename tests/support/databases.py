"""Databases for tests: migrated once per session and service, cloned per test."""

import os
import secrets
from dataclasses import dataclass

import asyncpg

from orderloop_lab import databases
from tests.support.sessions import run


async def sync_to_disk(admin_url: str, wanted: bool) -> None:
    """Whether a commit of the whole server waits for the disk; returns when new connections say so.

    A server that somebody has named, and that is not of this session, is left as it is.
    """
    if "ORDERLOOP_POSTGRES_URL" in os.environ:
        return
    conn = await asyncpg.connect(admin_url)
    try:
        await conn.execute(f"alter system set fsync = {'on' if wanted else 'off'}")
        await conn.execute("select pg_reload_conf()")
        while await conn.fetchval("select current_setting('fsync')::bool from pg_sleep(0.01)") is not wanted:
            pass  # every process of the server reads it for itself
    finally:
        await conn.close()


@dataclass(frozen=True, slots=True)
class Database:
    name: str
    app_url: str  # what the service itself may do
    owner_url: str  # what migrations may do
    admin_url: str  # everything: for looking at what the app role must not see


class Databases:
    def __init__(self, admin_url: str) -> None:
        self._admin_url = admin_url
        self._session = f"test_{secrets.token_hex(4)}"
        self._templates: dict[str, str] = {}
        run(databases.create_roles(admin_url))

    def clone(self, service: str) -> Database:
        """A fresh, migrated database for `service` (payment_callback, order_core, logistics, settlement)."""
        name = f"{self._session}_{service}_{secrets.token_hex(4)}"
        run(databases.create_database(self._admin_url, service, name, template=self._template(service)))
        return self._describe(service, name)

    def empty(self, service: str) -> Database:
        """Without any table: for tests of migrations."""
        name = f"{self._session}_{service}_{secrets.token_hex(4)}"
        run(databases.create_database(self._admin_url, service, name))
        return self._describe(service, name)

    def drop(self, names: list[str]) -> None:
        run(databases.drop_databases(self._admin_url, names))

    def drop_templates(self) -> None:
        self.drop(list(self._templates.values()))

    def _template(self, service: str) -> str:
        if service not in self._templates:
            name = f"{self._session}_{service}"
            run(databases.create_database(self._admin_url, service, name))
            run(databases.migrate_database(self._admin_url, service, name))
            self._templates[service] = name
        return self._templates[service]

    def _describe(self, service: str, name: str) -> Database:
        app, owner = (
            databases.url_for(self._admin_url, role=f"{service}_{role}", database=name) for role in ("app", "owner")
        )
        return Database(name, app, owner, databases.admin_url_for(self._admin_url, name))
