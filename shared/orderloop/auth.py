"""Who may see what only operators may: whoever knows the operator token.

A program sends it as `Authorization: Bearer`, a browser asks for it as the password of any user name.
"""

import base64
import hmac
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import Request
from pydantic import SecretStr
from starlette.exceptions import HTTPException

from .problem import Problem

Guard = Callable[[Request], Awaitable[None]]

# For the OpenAPI document of guarded routes.
RESPONSES: dict[int | str, dict[str, Any]] = {
    401: {"description": "No operator token, or a wrong one"},
    403: {"description": "No operator token is configured here"},
}


def operator(token: SecretStr | None) -> Guard:
    """A FastAPI dependency. Without a configured token nobody is let through."""
    expected = token.get_secret_value().encode() if token else b""

    async def guard(request: Request) -> None:
        if not expected:
            raise Problem(403, "operator-token-unset", "Set ORDERLOOP_HTTP_OPERATOR_TOKEN (or …_FILE) to open this.")
        if not hmac.compare_digest(_said(request.headers.get("authorization", "")), expected):
            raise HTTPException(401, "Send the operator token as a bearer token.", _CHALLENGE)

    return guard


_CHALLENGE = {"WWW-Authenticate": 'Basic realm="OrderLoop", charset="UTF-8", Bearer realm="OrderLoop"'}


def _said(authorization: str) -> bytes:
    scheme, _, rest = authorization.partition(" ")
    match scheme.lower():
        case "bearer":
            return rest.strip().encode()
        case "basic":
            try:
                return base64.b64decode(rest, validate=True).partition(b":")[2]
            except ValueError:
                return b""
        case _:
            return b""
