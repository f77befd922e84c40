"""A way to PostgreSQL that breaks: a TCP proxy that cuts a connection around a COMMIT.

Nobody can tell by a broken connection whether the COMMIT was carried out. Here both are made to happen.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

_COMMIT = b"COMMIT;\0"  # as asyncpg's transactions end, in the protocol's simple query
_CHUNK = 65536


@dataclass(slots=True)
class Proxy:
    """`carried_out`: whether PostgreSQL gets the `nth` COMMIT before the connection is cut."""

    url: str  # through it
    nth: int
    carried_out: bool
    seen: int = 0

    @property
    def has_cut(self) -> bool:
        return self.seen >= self.nth

    def strikes(self, data: bytes) -> bool:
        """Whether these bytes to the server end in the COMMIT that is to be cut."""
        self.seen += data.endswith(_COMMIT)
        return data.endswith(_COMMIT) and self.seen == self.nth


@asynccontextmanager
async def proxy(url: str, *, nth: int, carried_out: bool) -> AsyncGenerator[Proxy]:
    """A proxy before the server of `url`, on a port of its own."""
    parts = urlsplit(url)
    credentials = parts.netloc.rpartition("@")[0]
    connected: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            upstream = await asyncio.open_connection(parts.hostname, parts.port)
        except OSError:
            writer.transport.abort()
            return
        task = asyncio.ensure_future(_between(proxy, (reader, writer), upstream))
        connected.add(task)
        task.add_done_callback(connected.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    proxy = Proxy(parts._replace(netloc=f"{credentials}@127.0.0.1:{port}").geturl(), nth, carried_out)
    try:
        yield proxy
    finally:
        server.close()
        for task in connected:
            task.cancel()
        await asyncio.gather(*connected, return_exceptions=True)


_Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _between(proxy: Proxy, client: _Ends, server: _Ends) -> None:
    """Copy both ways until either side ends, or the moment has come."""
    cut = asyncio.Event()

    async def upwards() -> None:
        while data := await client[0].read(_CHUNK):
            if proxy.strikes(data):
                cut.set()
                if not proxy.carried_out:
                    return
            server[1].write(data)

    async def downwards() -> None:
        while data := await server[0].read(_CHUNK):
            if cut.is_set():
                return  # that is the answer to the COMMIT: it is carried out, and nobody will hear of it
            client[1].write(data)

    ways = (asyncio.ensure_future(upwards()), asyncio.ensure_future(downwards()))
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        for _, writer in (client, server):
            writer.transport.abort()
