"""An OpenTelemetry collector for tests: takes OTLP over HTTP and remembers the spans, as bytes and decoded."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from project.tests.service import serving, wait_until


@dataclass(frozen=True)
class Seen:
    """A span as it arrived; ids in hexadecimal digits."""

    service: str
    name: str
    kind: int
    trace_id: str
    span_id: str
    parent_id: str
    attributes: dict[str, str | int]
    failed: bool


class Collector:
    """Everything that was sent to it. While `answers` is cleared it takes requests and lets them wait."""

    def __init__(self) -> None:
        self.url = ""
        self.raw: list[bytes] = []
        self.paths: set[str] = set()
        self.status = 200
        self.answers = Event()
        self.answers.set()

    def spans(self, trace_id: str | None = None) -> list[Seen]:
        """All spans so far, or those of one trace."""
        found = [seen for body in self.raw for seen in _decoded(body)]
        return [seen for seen in found if trace_id in (None, seen.trace_id)]

    def await_span(self, name: str, trace_id: str) -> Seen:
        """The span of this name in the trace, once it is here."""

        def found() -> list[Seen]:
            return [seen for seen in self.spans(trace_id) if seen.name == name]

        [seen] = wait_until(found, f"a span {name}")
        assert isinstance(seen, Seen)
        return seen


def _decoded(body: bytes) -> Iterator[Seen]:
    for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
        [service] = [one.value.string_value for one in resource.resource.attributes if one.key == "service.name"]
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield Seen(
                    service,
                    span.name,
                    span.kind,
                    span.trace_id.hex(),
                    span.span_id.hex(),
                    span.parent_span_id.hex(),
                    {one.key: one.value.string_value or one.value.int_value for one in span.attributes},
                    span.status.code == 2,
                )


@contextmanager
def collecting() -> Iterator[Collector]:
    """A collector on a port of its own."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            collector.paths.add(self.path)
            collector.raw.append(self.rfile.read(int(self.headers["Content-Length"])))
            collector.answers.wait()
            self.send_response(collector.status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    collector.url = f"http://127.0.0.1:{server.server_port}"
    with serving(server):
        try:
            yield collector
        finally:
            collector.answers.set()
