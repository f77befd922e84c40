"""Does the thing behind a URL answer yet? One question for every kind of process, so that waiting is written once."""

import asyncio
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

import asyncpg
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

PATIENCE_SECONDS = 3.0


async def answers(url: str) -> bool:
    """True if `url` (http, postgresql, redis or kafka) answers as a ready service does."""
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await _ASK[urlsplit(url).scheme](url)
    except (OSError, TimeoutError):
        return False


async def _http(url: str) -> bool:
    parts = urlsplit(url)
    request = f"GET {parts.path or '/'} HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n\r\n"
    return (await _first_line(url, request)).split()[1:2] == [b"200"]


async def _redis(url: str) -> bool:
    return await _first_line(url, "PING\r\n") == b"+PONG\r\n"


async def _first_line(url: str, request: str) -> bytes:
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        writer.write(request.encode())
        return await reader.readline()
    finally:
        writer.close()


async def _postgresql(url: str) -> bool:
    try:
        connection = await asyncpg.connect(url)
    except asyncpg.CannotConnectNowError:  # starting up, or replaying its log after a crash
        return False
    await connection.close()
    return True


async def _kafka(url: str) -> bool:
    parts = urlsplit(url)
    _, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.close()
    admin = AIOKafkaAdminClient(bootstrap_servers=parts.netloc)
    try:
        await admin.start()
        # A broker that is still fenced after a restart answers, but is not in the list yet.
        return bool((await admin.describe_cluster())["brokers"])
    except KafkaError:
        return False
    finally:
        await admin.close()


_ASK: dict[str, Callable[[str], Awaitable[bool]]] = {
    "http": _http,
    "postgresql": _postgresql,
    "redis": _redis,
    "kafka": _kafka,
}
