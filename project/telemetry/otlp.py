"""OpenTelemetry's SDK as this service uses it: OTLP over HTTP, all else by the SDK's own environment variables.

Imported by `tracing` when traces are wanted, and by nobody else. Spans leave in batches, from a thread of the SDK's; a
collector that is away costs spans, never a request.
"""

from collections.abc import Sequence

import structlog
from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.propagators.textmap import (
    CarrierT,
    Getter,
    Setter,
    TextMapPropagator,
    default_getter,
    default_setter,
)
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult

from project.telemetry import trace_context, tracing

_log = structlog.get_logger("traces")

# What FastAPI writes into a request's span that is the client's own text: a path or a query may name a patient.
CLIENTS_WORDS = ("url.path", "url.query", "http.request.method_original", "server.address")
REDACTED = "redacted"


def provider(service: str) -> TracerProvider:
    """The process' provider, made known to FastAPI. Its resource is the environment's, over our service.name."""
    resource = Resource.create({"service.name": service}).merge(OTELResourceDetector().detect())
    made = TracerProvider(resource=resource, shutdown_on_exit=False)  # `tracing.stop` does, in bounded time
    made.add_span_processor(_Redaction())
    made.add_span_processor(BatchSpanProcessor(_Exporter()))
    trace.set_tracer_provider(made)
    propagate.set_global_textmap(_Traceparent())
    return made


class _Exporter(OTLPSpanExporter):
    """Tells once that the collector takes nothing, and once that it does again. The SDK would tell at every try."""

    _fails = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = super().export(spans)
        fails = result is not SpanExportResult.SUCCESS
        if fails != self._fails:
            _log.warning("traces_not_exported") if fails else _log.info("traces_exported_again")
            self._fails = fails
        return result


class _Redaction(SpanProcessor):
    """Takes the client's words out of a span when it starts; the route's template is told by `http.route`."""

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        present = span.attributes or {}
        span.set_attributes({name: REDACTED for name in CLIENTS_WORDS if name in present})


class _Traceparent(TextMapPropagator):
    """Takes over `traceparent` alone."""

    def extract(
        self, carrier: CarrierT, context: Context | None = None, getter: Getter[CarrierT] = default_getter
    ) -> Context:
        offered = getter.get(carrier, "traceparent") or []
        parent = trace_context.accepted(offered[0]) if len(offered) == 1 else None
        return tracing.below(parent, context) if parent else context or Context()

    def inject(
        self, carrier: CarrierT, context: Context | None = None, setter: Setter[CarrierT] = default_setter
    ) -> None:
        """Nothing: our calls are given the traceparent of their own step."""

    @property
    def fields(self) -> set[str]:
        return {"traceparent"}
