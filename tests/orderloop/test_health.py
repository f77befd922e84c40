import asyncio

import asyncpg
import pytest
import time_machine

from orderloop import health
from orderloop.health import Health


async def test_nothing_required_is_ready_and_alive() -> None:
    assert await Health().ready() == {}
    assert Health().alive() == {}


async def test_ready_names_what_is_missing_and_why() -> None:
    async def there() -> None: ...

    async def away() -> None:
        raise ConnectionRefusedError("nobody listens")

    parts = Health()
    parts.require("postgres", there)
    parts.require("kafka", away)

    assert await parts.ready() == {"postgres": "ok", "kafka": "ConnectionRefusedError: nobody listens"}


async def test_a_part_that_never_answers_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "_PATIENCE_SECONDS", 0.05)
    parts = Health()
    parts.require("postgres", asyncio.Event().wait)  # type: ignore[arg-type]

    assert (await parts.ready())["postgres"].startswith("TimeoutError")


def test_a_task_that_stopped_beating_is_dead_and_may_rise_again(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(health.time, "monotonic", lambda: now)
    parts = Health()
    parts.beat("consumer", within_seconds=60)
    now += 60
    assert parts.alive() == {"consumer": "ok"}

    now += 1
    assert parts.alive() == {"consumer": "silent for 61 s"}

    parts.beat("consumer", within_seconds=60)
    assert parts.alive() == {"consumer": "ok"}


def test_a_clock_set_back_changes_nothing() -> None:
    parts = Health()
    parts.beat("consumer", within_seconds=60)
    with time_machine.travel("2001-01-01", tick=False):
        assert parts.alive() == {"consumer": "ok"}


async def test_a_pool_is_ready_while_its_database_answers(pool: asyncpg.Pool) -> None:
    parts = Health()
    parts.require("postgres", health.postgres(pool))
    assert await parts.ready() == {"postgres": "ok"}

    async with asyncpg.create_pool("postgresql://nobody@127.0.0.1:1/x", min_size=0) as away:
        parts.require("postgres", health.postgres(away))
        assert await parts.ready() != {"postgres": "ok"}
