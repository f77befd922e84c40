"""HTTP connections that cannot be held for ever: uvicorn by itself never closes one that sends a byte a minute.

Whoever connects has so many seconds for a request's headers, from its first byte or, on a fresh connection, from the
beginning; so many more for its body; and only so many bytes of headers. Slow readers are none of this: an answer is
small, and its connection is closed by the keep-alive limit.
"""

import asyncio
from dataclasses import dataclass

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

# Twice what the largest trace and cookie headers need.
_MOST_HEADER_BYTES = 32 * 1024

_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a client may take, and how many there may be."""

    headers: float = 10.0  # seconds
    body: float = 60.0  # seconds; from the end of the headers
    connections: int = 10_000  # more are closed at once; see `serve` for what the system allows


def protocol(patience: Patience) -> type[asyncio.Protocol]:
    """uvicorn's protocol with limits, for `uvicorn.Config(http=...)`."""

    class Limited(_Limited):
        limits = patience

    return Limited


class _Limited(HttpToolsProtocol):
    limits: Patience

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, object],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._deadline: asyncio.TimerHandle | None = None
        self._in_headers = True
        self._header_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        if len(self.connections) >= self.limits.connections:
            transport.abort()
            return
        super().connection_made(transport)
        self._expect(self.limits.headers)

    def connection_lost(self, exc: Exception | None) -> None:
        self._expect(None)
        if self.transport is not None:  # pyright: ignore[reportUnnecessaryComparison]  # refused: it was never made
            super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport is None:  # pyright: ignore[reportUnnecessaryComparison]
            return
        if self._in_headers:
            self._header_bytes += len(data)
        elif self._deadline is None and self.cycle.response_complete:
            self._expect(self.limits.headers)  # empty lines before a request: the parser says nothing of them
        super().data_received(data)
        if self._in_headers and self._header_bytes > _MOST_HEADER_BYTES and not self.transport.is_closing():
            self.transport.write(_TOO_LARGE)
            self.transport.close()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_headers = True
        self._expect(self.limits.headers)

    def on_headers_complete(self) -> None:
        self._in_headers, self._header_bytes = False, 0
        self._expect(self.limits.body)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._expect(None)
        super().on_message_complete()

    def _expect(self, seconds: float | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self.loop.call_later(seconds, self._give_up) if seconds is not None else None

    def _give_up(self) -> None:
        # nothing to say: whoever trickles does not listen either, and a graceful close would wait for them
        self.transport.abort()
