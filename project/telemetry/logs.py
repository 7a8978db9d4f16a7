"""Structured logs: one line an event, JSON unless a person is watching a terminal.

Called by `app` and `cli` at start; everybody else takes `structlog.get_logger()`. Log lines hold ids, counts and
rules, never a value that a client sent: an exception is logged as its type and place, not as its text or traceback,
because its text may quote a row.
"""

import logging
import os
import sys
import traceback
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

import msgspec
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from project.settings import LogSettings

# Libraries that log what we log ourselves, or that print keys, clients' bytes, and tracebacks of expected faults.
_SILENCED = ("redis_fastapi", "uvicorn.access", "opentelemetry", "aiohttp.server")
_LEVELS = {"warn": "warning", "exception": "error"}  # methods that are called after something else than their level

_of_request: ContextVar[Mapping[str, str]] = ContextVar("of_request", default=MappingProxyType({}))


def begin_request(**fields: str) -> None:
    """The fields that each line about this request has. One variable for all, which costs a tenth of one for each, as
    structlog's own are (bench: 2 lines).
    """
    _of_request.set(fields)


def tell_of_request(**fields: str) -> None:
    """More of them."""
    _of_request.set({**_of_request.get(), **fields})


def where(error: BaseException) -> str:
    """An error's type and the place that raised it, without its text: `ValueError at fees.py:31`."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {frames[-1].filename.rsplit('/', 1)[-1]}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{place}"


def _as_json(event: EventDict, **_: Any) -> bytes:
    return msgspec.json.encode(event)


def _as_json_text(event: EventDict, **_: Any) -> str:
    return _as_json(event).decode()


def _exception_as_place(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """A library's traceback becomes one field: what was raised, and where."""
    event.pop("color_message", None)  # uvicorn's line again, in colours
    information = event.pop("exc_info", None)
    if information is True:
        information = sys.exc_info()
    error = information[1] if isinstance(information, tuple) else information
    if isinstance(error, BaseException):
        event["error"] = where(error)
    return event


def configure(settings: LogSettings, process: str) -> None:
    """Sets up structlog and the standard library's logging alike; the last call holds.

    Every line names the `process` that this is (web, worker, payments, migrate), since they often share a stream.
    """
    named = {"process": process, "pid": os.getpid()}
    terminal = sys.stderr.isatty()
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    shared: list[Processor] = [
        lambda _, level, event: {
            "timestamp": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
            "level": _LEVELS.get(level, level),
            **named,
            "event": event.pop("event", None),
            **_of_request.get(),
            **event,
        },
        _exception_as_place,
    ]
    renderer = structlog.dev.ConsoleRenderer() if terminal else structlog.processors.JSONRenderer(_as_json)
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=(
            structlog.PrintLoggerFactory(sys.stderr) if terminal else structlog.BytesLoggerFactory(sys.stderr.buffer)
        ),
        cache_logger_on_first_use=True,
    )
    _configure_standard_logging(level, shared, terminal)


def _configure_standard_logging(level: int, shared: list[Processor], terminal: bool) -> None:
    renderer = structlog.dev.ConsoleRenderer() if terminal else structlog.processors.JSONRenderer(_as_json_text)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.ExtraAdder(), *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(level, logging.INFO))
    logging.getLogger("alembic").setLevel(max(level, logging.WARNING))
    for name in ("uvicorn", "uvicorn.error"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    for name in _SILENCED:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)  # for the loggers below it, too
