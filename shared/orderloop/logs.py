"""Structured logs: one JSON object a line, with the trace's ids, and without anybody's secrets or personal data."""

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog
from opentelemetry import trace

from .settings import LogSettings

# Field names whose values never reach a log. Bodies are not logged at all; they stand in the databases, masked.
_SENSITIVE = frozenset(
    {"address", "api_key", "apiv3_key", "authorization", "body", "ciphertext", "cookie", "dsn", "key", "name"}
    | {"openid", "password", "payer", "phone", "receiver", "secret", "sign", "signature", "token"}
)


# PostgreSQL quotes the whole row that it refuses, in the lines below its message.
_ROW = re.compile(r"^(DETAIL:|CONTEXT:).*$", re.MULTILINE)


def configure(settings: LogSettings, service: str) -> None:
    """Route structlog and the standard library's loggers to standard output in one format."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _trace_ids,
        redact,
        _named(service),
    ]
    console = settings.format == "console"
    renderer = structlog.dev.ConsoleRenderer() if console else structlog.processors.JSONRenderer(ensure_ascii=False)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[settings.level]),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.basicConfig(handlers=[handler], level=settings.level, force=True)
    for chatty in ("aiokafka", "httpx", "opentelemetry", "uvicorn.access"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def redact(_logger: object, _method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Blank the values of fields that may hold secrets or personal data, at any depth."""
    return {field: _blank(field, value) for field, value in line.items()}


def _blank(field: str, value: Any) -> Any:
    if field.lower() in _SENSITIVE:
        return "[redacted]"
    if isinstance(value, str):
        return _ROW.sub(r"\1 [redacted]", value)
    if isinstance(value, dict):
        return {inner: _blank(str(inner), one) for inner, one in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_blank("", one) for one in value]
    return value


def _trace_ids(_logger: object, _method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    running = trace.get_current_span().get_span_context()
    if running.is_valid:
        line["trace_id"] = f"{running.trace_id:032x}"
        line["span_id"] = f"{running.span_id:016x}"
    return line


def _named(service: str) -> Any:
    def add(_logger: object, _method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        line["service"] = service
        return line

    return add
