"""Spans: made only where OpenTelemetry is switched on by its own environment variables, at no cost where it is not.

`app` and `worker` start and stop it. FastAPI makes the span of each request (its native support); the others are
begun here: the claim's way into the tables, the calls to payments, the event. What binds them is the `traceparent` of
`trace_context`, so one trace reaches from the POST to the event, over processes and restarts.
No attribute holds what a client sent.
"""

import asyncio
import importlib
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, SpanKind, StatusCode, TraceFlags, Tracer

from project.errors import SettingsError

_SDK = "project.telemetry.otlp"  # imported only when it is wanted: exporter and protobuf are for nothing otherwise
_PROTOCOL = "http/protobuf"
LAST_SPANS_S = 2.0

_started: tuple[Any, Tracer] | None = None


def is_wanted() -> bool:
    """Whether the environment names a collector, and nothing switches traces off (OpenTelemetry's own variables).

    Raises SettingsError for a protocol or an exporter that this build does not speak.
    """
    ends = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"
    exporter = os.environ.get("OTEL_TRACES_EXPORTER", "").strip() or "otlp"
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true" or exporter == "none":
        return False
    if not any(os.environ.get(name) for name in ends):
        return False
    if exporter != "otlp":
        raise SettingsError("OTEL_TRACES_EXPORTER must be otlp or none")
    for name in ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        if os.environ.get(name, _PROTOCOL) != _PROTOCOL:
            raise SettingsError(f"{name} must be {_PROTOCOL}")
    return True


def start(service: str) -> bool:
    """Makes spans from now on, if they are wanted. `service` is their service.name unless the environment has one."""
    global _started  # noqa: PLW0603  one for the process, as OpenTelemetry itself has it
    if _started is None and is_wanted():
        try:
            provider = importlib.import_module(_SDK).provider(service)
        except ValueError as error:  # the SDK's own words may quote a value
            raise SettingsError("the OTEL_ variables contradict each other, or one has a wrong value") from error
        _started = provider, provider.get_tracer("claim_process")
    return _started is not None


async def stop() -> None:
    """Sends what is waiting, for LAST_SPANS_S at most, whatever the collector does."""
    global _started  # noqa: PLW0603
    if _started is not None:
        provider, _ = _started
        _started = None
        last = threading.Thread(target=provider.shutdown, daemon=True)
        last.start()
        await asyncio.to_thread(last.join, LAST_SPANS_S)


class Step:
    """A piece of a claim's way. `traceparent` is what its followers get: its own, or without spans its parent's."""

    __slots__ = ("_span", "traceparent")

    def __init__(self, traceparent: str | None, span: Span | None = None) -> None:
        self.traceparent = traceparent
        self._span = span

    def tell(self, **attributes: str | int) -> None:
        """Adds attributes; two underscores in a name stand for a dot."""
        if self._span is not None:
            self._span.set_attributes(_dotted(attributes))

    def end(self, *, failed: bool = False) -> None:
        """It is over."""
        if self._span is not None:
            if failed:
                self._span.set_status(StatusCode.ERROR)
            self._span.end()


def begin(name: str, kind: SpanKind, parent: str | None, **attributes: str | int) -> Step:
    """A step below `parent`, a traceparent; without one, below the span of the request that is being answered."""
    if _started is None:
        return Step(parent)
    above = None if parent is None else below(parent)
    span = _started[1].start_span(name, context=above, kind=kind, attributes=_dotted(attributes))
    return Step(_traceparent(span.get_span_context()), span)


@contextmanager
def step(name: str, kind: SpanKind, parent: str | None = None, **attributes: str | int) -> Iterator[Step]:
    """The same around a block, failed if that raises."""
    begun = begin(name, kind, parent, **attributes)
    failed = True
    try:
        yield begun
        failed = False
    finally:
        begun.end(failed=failed)


def here() -> str | None:
    """The traceparent of the request's span; None when there is none."""
    if _started is None:
        return None
    context = trace.get_current_span().get_span_context()
    return _traceparent(context) if context.is_valid else None


def below(traceparent: str, context: Context | None = None) -> Context:
    """`context` in which the span of `traceparent`, which is somebody else's, is the current one."""
    _, trace_id, span_id, flags = traceparent.split("-")
    remote = SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=TraceFlags(int(flags, 16)))
    return trace.set_span_in_context(NonRecordingSpan(remote), context or Context())


def _traceparent(context: SpanContext) -> str:
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def _dotted(attributes: dict[str, str | int]) -> dict[str, str | int]:
    return {name.replace("__", "."): value for name, value in attributes.items()}
