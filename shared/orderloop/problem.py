"""Errors over HTTP as RFC 9457 problem+json: a stable `type`, a sentence, and what to do about it."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import asyncpg
import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from .errors import Transient, is_transient, reason

log = structlog.get_logger()

_TYPES = "https://orderloop.dev/problems/"  # an identifier; docs/problems.md explains each


class Problem(Exception):
    """An answer that is not the expected one. `slug` is the stable end of its `type`."""

    def __init__(self, status: int, slug: str, detail: str, **extra: Any) -> None:
        super().__init__(detail)
        self.status = status
        self.slug = slug
        self.detail = detail
        self.extra = extra


def response(problem: Problem, headers: Mapping[str, str] | None = None) -> JSONResponse:
    retry = {"Retry-After": "1"} if problem.status in (409, 429, 503) else {}
    return JSONResponse(
        {
            "type": _TYPES + problem.slug,
            "title": HTTPStatus(problem.status).phrase,
            "status": problem.status,
            "detail": problem.detail,
            **problem.extra,
        },
        status_code=problem.status,
        headers={**retry, **(headers or {})},
        media_type="application/problem+json",
    )


def install(app: FastAPI) -> None:
    """Make every error of `app` a problem, the framework's own included."""

    @app.exception_handler(Problem)
    async def _problem(_request: Request, problem: Problem) -> JSONResponse:
        return response(problem)

    @app.exception_handler(RequestValidationError)
    async def _invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
        # The values at fault are not repeated: they may be somebody's address.
        faults = [{"field": ".".join(map(str, e["loc"])), "error": e["msg"]} for e in error.errors()]
        return response(Problem(422, "invalid-request", "The request does not fit the schema.", errors=faults))

    @app.exception_handler(HTTPException)
    async def _http(_request: Request, error: HTTPException) -> JSONResponse:
        slug = HTTPStatus(error.status_code).phrase.lower().replace(" ", "-")
        return response(Problem(error.status_code, slug, str(error.detail)), error.headers)  # Allow, WWW-Authenticate

    # Named one by one as well: for what only `Exception` catches, Starlette raises again after the answer, and every
    # request of an outage would log a stack.
    @app.exception_handler(Transient)
    @app.exception_handler(OSError)
    @app.exception_handler(asyncpg.PostgresError)
    @app.exception_handler(asyncpg.InterfaceError)
    @app.exception_handler(Exception)
    async def _unexpected(_request: Request, error: Exception) -> JSONResponse:
        if is_transient(error):
            log.warning("request failed for the moment", error=reason(error))
            return response(Problem(503, "unavailable", "A part that this needs is away. Try again in a moment."))
        log.error("request failed", exc_info=error)
        return response(Problem(500, "internal-error", "This is our fault. The log has the details by trace id."))
