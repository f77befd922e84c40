"""One request to a channel: bounded in time and size, never redirected."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

import httpx

from .gateway import GatewaySilent

ANSWER_WITHIN_SECONDS = 5.0
_LARGEST_ANSWER = 256 * 1024


@dataclass(frozen=True, slots=True)
class Heard:
    status: int
    headers: Mapping[str, str]  # names in lower case
    body: bytes


async def exchange(client: httpx.AsyncClient, request: httpx.Request) -> Heard:
    """Raises GatewaySilent for everything that is no answer: nothing is known then."""
    try:
        async with asyncio.timeout(ANSWER_WITHIN_SECONDS):
            answer = await client.send(request, stream=True, follow_redirects=False)
            try:
                body = await _read(answer)
            finally:
                await answer.aclose()
    except (httpx.HTTPError, TimeoutError) as error:
        raise GatewaySilent(type(error).__name__) from None
    if answer.status_code >= 500 or answer.status_code == 429 or 300 <= answer.status_code < 400:
        raise GatewaySilent(f"status {answer.status_code}")
    return Heard(answer.status_code, {name.lower(): value for name, value in answer.headers.items()}, body)


async def _read(answer: httpx.Response) -> bytes:
    body = bytearray()
    async for part in answer.aiter_bytes():
        body += part
        if len(body) > _LARGEST_ANSWER:
            raise GatewaySilent("the answer is too large")
    return bytes(body)
