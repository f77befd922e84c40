import json
import logging
from collections.abc import Iterator
from typing import Any

import asyncpg
import pytest
import structlog
from opentelemetry.sdk.trace import TracerProvider

from orderloop import logs
from orderloop.settings import LogSettings

CANARY = "canary-13800138000"


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def lines(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


def test_a_line_is_json_with_service_level_and_time(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(LogSettings(), "order-core")
    structlog.get_logger().info("order paid", order_no="O1")
    logging.getLogger("some.library").warning("odd: %s", "thing")

    ours, theirs = lines(capsys.readouterr().out)

    assert ours["event"] == "order paid"
    assert {"service": "order-core", "level": "info", "order_no": "O1"}.items() <= ours.items()
    assert ours["timestamp"].endswith("Z")
    assert theirs["event"] == "odd: thing"
    assert theirs["service"] == "order-core"


def test_a_line_within_a_span_carries_its_ids(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(LogSettings(), "order-core")
    with TracerProvider(shutdown_on_exit=False).get_tracer("t").start_as_current_span("s") as span:
        structlog.get_logger().info("inside")
    structlog.get_logger().info("outside")

    inside, outside = lines(capsys.readouterr().out)

    assert inside["trace_id"] == f"{span.get_span_context().trace_id:032x}"
    assert inside["span_id"] == f"{span.get_span_context().span_id:016x}"
    assert "trace_id" not in outside


@pytest.mark.parametrize(
    "field",
    ["openid", "phone", "address", "name", "receiver", "token", "key", "secret", "Authorization", "signature", "body"],
)
def test_personal_data_and_secrets_never_reach_a_line(field: str, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(LogSettings(), "order-core")
    log = structlog.get_logger()
    log.info("flat", **{field: CANARY})
    log.info("nested", order={"receivers": [{field: CANARY}, ({field: {"deep": CANARY}},)]})
    log.info("bytes", **{field: CANARY.encode()})

    out = capsys.readouterr().out

    assert CANARY not in out
    assert out.count("[redacted]") == 4


def test_the_row_that_a_database_refused_is_not_logged(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(LogSettings(), "order-core")
    refused = asyncpg.CheckViolationError("new row for relation violates check constraint")
    refused.detail = f"Failing row contains ({CANARY})."
    try:
        raise refused
    except asyncpg.CheckViolationError:
        structlog.get_logger().exception("request failed")
        logging.getLogger("uvicorn.error").exception("in a library")

    out = capsys.readouterr().out

    assert "CheckViolationError" in out
    assert CANARY not in out


def test_lines_below_the_level_are_not_written(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(LogSettings(level="WARNING"), "order-core")
    structlog.get_logger().info("quiet")

    assert capsys.readouterr().out == ""


def test_a_terminal_gets_words(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(LogSettings(format="console"), "order-core")
    structlog.get_logger().info("hello", phone=CANARY)

    out = capsys.readouterr().out

    assert "hello" in out
    assert CANARY not in out
