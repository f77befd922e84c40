from collections.abc import AsyncIterator

import asyncpg
import httpx
import pytest
from fastapi import HTTPException
from pydantic import BaseModel

from orderloop import http
from orderloop.errors import Transient
from orderloop.health import Health
from orderloop.problem import Problem

CANARY = "canary-13800138000"


class Receiver(BaseModel):
    phone: int


FAILURES: dict[str, Exception] = {
    "bug": RuntimeError(CANARY),
    "row": asyncpg.CheckViolationError(CANARY),
    "away": ConnectionRefusedError(CANARY),
    "full": asyncpg.TooManyConnectionsError(CANARY),
    "closed": asyncpg.InterfaceError(CANARY),
    "later": Transient(CANARY),
    "paid": Problem(409, "already-paid", "The order is paid.", order_no="O1"),
    "who": HTTPException(401, "Who are you?", {"WWW-Authenticate": "Bearer"}),
}


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    health = Health()
    app = http.create_app("order-core", title="t", description="d", health=health)

    @app.get("/fail/{how}")
    async def fail(how: str) -> None:
        raise FAILURES[how]

    @app.post("/receivers")
    async def receivers(receiver: Receiver) -> None: ...

    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


@pytest.mark.parametrize("how", ["bug", "row"])
async def test_our_fault_is_500_and_leaks_nothing(client: httpx.AsyncClient, how: str) -> None:
    answer = await client.get(f"/fail/{how}")

    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["type"].endswith("/internal-error")
    assert CANARY not in answer.text


@pytest.mark.parametrize("how", ["away", "full", "closed", "later"])
async def test_what_passes_is_503_and_says_when_to_come_again(client: httpx.AsyncClient, how: str) -> None:
    answer = await client.get(f"/fail/{how}")

    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert answer.json()["type"].endswith("/unavailable")
    assert CANARY not in answer.text


async def test_an_outage_is_answered_without_raising_again_into_the_server(client: httpx.AsyncClient) -> None:
    transport = httpx.ASGITransport(client._transport.app, raise_app_exceptions=True)  # type: ignore[attr-defined]
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as strict:
        assert (await strict.get("/fail/full")).status_code == 503


@pytest.mark.parametrize("body", [{"phone": CANARY}, {CANARY: CANARY}, [CANARY], CANARY])
async def test_a_body_that_does_not_fit_is_422_and_not_repeated(client: httpx.AsyncClient, body: object) -> None:
    answer = await client.post("/receivers", json=body)

    assert answer.status_code == 422
    assert answer.json()["errors"]
    assert CANARY not in answer.text


async def test_a_problem_is_told_as_it_was_meant(client: httpx.AsyncClient) -> None:
    answer = await client.get("/fail/paid")

    assert answer.status_code == 409
    assert answer.json() == {
        "type": "https://orderloop.dev/problems/already-paid",
        "title": "Conflict",
        "status": 409,
        "detail": "The order is paid.",
        "order_no": "O1",
    }


async def test_the_frameworks_own_errors_are_problems_with_their_headers(client: httpx.AsyncClient) -> None:
    nowhere, wrong, who = await client.get("/nowhere"), await client.delete("/receivers"), await client.get("/fail/who")

    assert nowhere.json()["type"].endswith("/not-found")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    assert (who.status_code, who.headers["www-authenticate"]) == (401, "Bearer")


async def test_every_service_answers_probes_metrics_and_documents(client: httpx.AsyncClient) -> None:
    for path in ("/livez", "/readyz", "/metrics", "/openapi.json", "/asyncapi"):
        assert (await client.get(path)).status_code == 200
    assert "orderloop_dead_letters_total" in (await client.get("/metrics")).text


async def test_a_missing_part_turns_readiness_red_and_names_it() -> None:
    async def away() -> None:
        raise ConnectionRefusedError("nobody listens")

    health = Health()
    health.require("kafka", away)
    app = http.create_app("order-core", title="t", description="d", health=health)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as unready:
        answer = await unready.get("/readyz")

    assert (answer.status_code, answer.json()) == (503, {"kafka": "ConnectionRefusedError: nobody listens"})
