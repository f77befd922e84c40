"""Nobody holds a connection for ever, however slowly they talk. Real sockets."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from orderloop.connection import Patience, protocol

REQUEST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody"


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


@asynccontextmanager
async def serving(patience: Patience) -> AsyncIterator[int]:
    config = uvicorn.Config(
        echo, port=0, lifespan="off", log_config=None, http=protocol(patience), timeout_keep_alive=5
    )
    server = uvicorn.Server(config)
    config.load()
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.force_exit = True
        await server.shutdown()


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def trickle(port: int, first: bytes, drop: bytes, every: float) -> float:
    """Sends `first`, then `drop` again and again; the seconds until the server has had enough."""
    async with connected(port) as (reader, writer):
        began = time.monotonic()
        writer.write(first)
        closed = asyncio.create_task(reader.read())
        try:
            async with asyncio.timeout(5):
                while not closed.done():
                    writer.write(drop)
                    await asyncio.wait({closed}, timeout=every)
        finally:
            closed.cancel()
            await asyncio.gather(closed, return_exceptions=True)
        return time.monotonic() - began


@pytest.mark.parametrize(
    ("first", "drop"),
    [
        (b"", b""),
        (b"POST / HT", b""),
        (b"POST / HTTP/1.1\r\nHost: x\r\n", b"x-slow: 1\r\n"),
        (REQUEST + b"POST / HTTP/1.1\r\n", b"x-slow: 1\r\n"),
        (REQUEST, b"\r\n"),
    ],
    ids=["says nothing", "stops in the first line", "one header at a time", "on a used connection", "empty lines"],
)
async def test_headers_have_a_deadline(first: bytes, drop: bytes) -> None:
    async with serving(Patience(headers=0.4, body=9)) as port:
        assert 0.3 < await trickle(port, first, drop, 0.05) < 2


async def test_a_body_has_a_deadline_even_after_the_answer() -> None:
    async with serving(Patience(headers=9, body=0.4)) as port:
        announced = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10000\r\n\r\n"
        assert 0.3 < await trickle(port, announced, b"x", 0.05) < 2


async def test_requests_in_time_are_answered_one_after_the_other_on_one_connection() -> None:
    async with serving(Patience(headers=0.5, body=0.5)) as port, connected(port) as (reader, writer):
        for _ in range(3):
            writer.write(REQUEST[:20])
            await asyncio.sleep(0.25)  # each within its time, all three together not
            writer.write(REQUEST[20:])
            assert (await reader.readuntil(b"body")).startswith(b"HTTP/1.1 200")


async def test_headers_without_end_are_cut_off() -> None:
    async with serving(Patience()) as port, connected(port) as (reader, writer):
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\n" + b"x-more: " + b"x" * 40_000)
        assert (await reader.read()).startswith(b"HTTP/1.1 431")


async def test_more_connections_than_allowed_are_closed_at_once_and_the_others_live() -> None:
    async with (
        serving(Patience(connections=2)) as port,
        connected(port) as first,
        connected(port) as second,
        connected(port) as (refused, _),
    ):
        with suppress(ConnectionResetError):
            assert await refused.read() == b""
        for reader, writer in (first, second):
            writer.write(REQUEST)
            assert (await reader.readuntil(b"body")).startswith(b"HTTP/1.1 200")
