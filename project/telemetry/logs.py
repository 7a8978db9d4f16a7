"""Structured logs: one line an event, JSON unless a person is watching a terminal.

Called by `app` and `cli` at start; everybody else takes `structlog.get_logger()`. Log lines hold ids, counts and
rules, never a value that a client sent: an exception is logged as its type and place, not as its text or traceback,
because its text may quote a row.
"""

import logging
import os
import sys
import traceback
from typing import Any

import msgspec
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from project.settings import LogSettings

# Libraries that log what we log ourselves, or that print keys, clients' bytes, and tracebacks of expected faults.
_SILENCED = ("redis_fastapi", "uvicorn.access", "opentelemetry", "aiohttp.server")
_FIRST = ("timestamp", "level", "process", "pid", "event")


def where(error: BaseException) -> str:
    """An error's type and the place that raised it, without its text: `ValueError at fees.py:31`."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {frames[-1].filename.rsplit('/', 1)[-1]}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{place}"


def _as_json(event: EventDict, **_: Any) -> bytes:
    """When, how bad, who, what; then the event's own fields."""
    first = {name: event.pop(name, None) for name in _FIRST}
    return msgspec.json.encode({**first, **event})


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
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        lambda _, __, event: {**event, **named},
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
