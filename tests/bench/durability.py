"""A figure of a database that promises nothing is worth nothing."""

import asyncpg

SETTINGS = ("fsync", "synchronous_commit", "full_page_writes")


async def weaknesses(conn: asyncpg.Connection) -> list[str]:
    """What keeps a commit from being one."""
    values = {name: await conn.fetchval("select current_setting($1)", name) for name in SETTINGS}
    return [f"{name} is {value}: a commit promises nothing" for name, value in values.items() if value != "on"]
