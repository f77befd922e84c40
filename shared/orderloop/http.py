"""What every service answers over HTTP, whatever else it does."""

from typing import Any

from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.routing import Match, Route
from starlette.types import Scope

from . import problem
from .asyncapi import document
from .health import Health

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


def _answer(parts: dict[str, str]) -> JSONResponse:
    return JSONResponse(parts, status_code=200 if all(state == "ok" for state in parts.values()) else 503)
