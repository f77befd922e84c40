"""What every service answers over HTTP, whatever else it does."""

from typing import Any

from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from . import problem
from .asyncapi import document
from .health import Health
from .problem import Problem

# Probes and scrapes would drown the traces that matter.
_UNTRACED = "livez,readyz,metrics,openapi.json,asyncapi"


def create_app(service: str, *, title: str, description: str, health: Health) -> FastAPI:
    """A FastAPI application with /livez, /readyz, /metrics, /openapi.json and /asyncapi, problem+json, and traces."""
    app = FastAPI(title=title, description=description, version="1", docs_url=None, redoc_url=None)
    problem.install(app)

    @app.get("/livez", tags=["operation"], summary="The process turns: restart it when this fails")
    async def livez() -> JSONResponse:
        return _answer(health.alive())

    @app.get("/readyz", tags=["operation"], summary="What it needs is there: send it work only while this holds")
    async def readyz() -> JSONResponse:
        return _answer(await health.ready())

    @app.get("/metrics", tags=["operation"], summary="Prometheus metrics", response_class=Response)
    async def metrics() -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/asyncapi", tags=["operation"], summary="AsyncAPI 3: the events this service reads and writes")
    async def asyncapi() -> dict[str, Any]:
        return document(service)

    def route(scope: Scope) -> tuple[str, dict[str, str]]:
        """A span is named by its route: a name for every order would be no name."""
        paths = (one.path for one in app.routes if isinstance(one, Route) and one.matches(scope)[0] is Match.FULL)
        path = next(paths, None)
        return f"{scope['method']} {path}" if path else str(scope["method"]), {"http.route": path} if path else {}

    app.add_middleware(
        OpenTelemetryMiddleware,
        excluded_urls=_UNTRACED,
        exclude_spans=["receive", "send"],
        default_span_details=route,
    )
    return app


class BodyLimit:
    """Takes in a request's whole body before the application does, and answers 413 if it is larger than `most`."""

    def __init__(self, app: ASGIApp, *, most: int) -> None:
        self._app = app
        self._most = most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        taken: list[Message] = []
        size = 0
        while not taken or taken[-1].get("more_body", False):
            taken.append(await receive())
            size += len(taken[-1].get("body", b""))
            if size > self._most:
                detail = f"The request's body is larger than {self._most} bytes."
                # nobody reads the rest
                answer = problem.response(Problem(413, "body-too-large", detail), {"Connection": "close"})
                await answer(scope, receive, send)
                return
        taken.reverse()

        async def again() -> Message:
            return taken.pop() if taken else await receive()

        await self._app(scope, again, send)


def _answer(parts: dict[str, str]) -> JSONResponse:
    return JSONResponse(parts, status_code=200 if all(state == "ok" for state in parts.values()) else 503)
