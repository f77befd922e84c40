"""One foreign call with its limits: the time, the size, and no redirects."""

import httpx

from .courier import CourierTrouble, Trouble

_MOST_BYTES = 1_048_576  # a track of hundreds of scans has 100 kB


async def call(client: httpx.AsyncClient, courier: str, request: httpx.Request) -> bytes:
    """The body of a 200. Raises CourierTrouble for everything else."""
    try:
        response = await client.send(request, stream=True, follow_redirects=False)
        try:
            if response.status_code == 429:
                raise CourierTrouble(courier, Trouble.BUSY, "HTTP 429")
            if response.status_code >= 500:
                raise CourierTrouble(courier, Trouble.UNREACHABLE, f"HTTP {response.status_code}")
            if response.status_code != 200:
                raise CourierTrouble(courier, Trouble.REFUSED, f"HTTP {response.status_code}")
            body = bytearray()
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > _MOST_BYTES:
                    raise CourierTrouble(courier, Trouble.UNREADABLE, "more than 1 MB")
            return bytes(body)
        finally:
            await response.aclose()
    except httpx.HTTPError as error:
        raise CourierTrouble(courier, Trouble.UNREACHABLE, type(error).__name__) from error
