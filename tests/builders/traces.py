"""Traces for tests: spans as a collector receives them, checks of their parents, and a picture."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

MILLISECOND_NS = 1_000_000


@dataclass(frozen=True)
class Span:
    """A span that was exported. Times are nanoseconds since 1970."""

    trace_id: str
    span_id: str
    parent_id: str
    """Empty for the first span of a trace."""
    name: str
    process: str
    started_ns: int
    ended_ns: int
    attributes: dict[str, str | int]

    @property
    def traceparent(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-01"


def received(request: ExportTraceServiceRequest) -> Iterator[Span]:
    """Yield the spans of a request to a collector."""
    for group in request.resource_spans:
        resource = {each.key: each.value.string_value for each in group.resource.attributes}
        for scope in group.scope_spans:
            for span in scope.spans:
                yield Span(
                    trace_id=span.trace_id.hex(),
                    span_id=span.span_id.hex(),
                    parent_id=span.parent_span_id.hex(),
                    name=span.name,
                    process=resource["service.name"],
                    started_ns=span.start_time_unix_nano,
                    ended_ns=span.end_time_unix_nano,
                    attributes={
                        each.key: each.value.string_value or each.value.int_value
                        for each in span.attributes
                    },
                )


@dataclass
class Collector(SpanExporter):
    """A collector in memory, which gets the same encoded spans as one behind HTTP."""

    spans: list[Span] = field(default_factory=list)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.spans.extend(received(encode_spans(spans)))
        return SpanExportResult.SUCCESS

    @property
    def names(self) -> list[str]:
        return [span.name for span in self.spans]

    def named(self, name: str) -> Span:
        """Return the only span with this name."""
        (span,) = (each for each in self.spans if each.name == name)
        return span

    def trace_with(self, name: str) -> list[Span]:
        """Return the trace of the only span with this name, in the order of its start."""
        trace_id = self.named(name).trace_id
        spans = [each for each in self.spans if each.trace_id == trace_id]
        return sorted(spans, key=lambda each: (each.started_ns, -each.ended_ns))


@contextmanager
def collector_on_http() -> Iterator[tuple[Collector, str]]:
    """Run a collector that decodes OTLP over HTTP. Yield it and its base URL."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.path == "/v1/traces":
                collector.spans.extend(received(ExportTraceServiceRequest.FromString(body)))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield collector, f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def path_to(spans: Iterable[Span], last: Span) -> list[str]:
    """Return `process: name` of a span and all its ancestors, the first span of the trace first.

    Fail if a parent is missing.
    """
    by_id = {each.span_id: each for each in spans}
    path = [last]
    while path[0].parent_id:
        path.insert(0, by_id[path[0].parent_id])
    return [f"{each.process}: {each.name}" for each in path]


def orphans(spans: Sequence[Span]) -> list[str]:
    """Return the names of spans whose parent is missing."""
    known = {each.span_id for each in spans} | {""}
    return [each.name for each in spans if each.parent_id not in known]


def picture(spans: Sequence[Span]) -> str:
    """Return a trace as a tree of text, with starts and durations in milliseconds."""
    start = min(each.started_ns for each in spans)
    lines: list[str] = []

    def draw(parent_id: str, depth: int) -> None:
        for each in (span for span in spans if span.parent_id == parent_id):
            begin = (each.started_ns - start) / MILLISECOND_NS
            lasts = (each.ended_ns - each.started_ns) / MILLISECOND_NS
            lines.append(
                f"{begin:7,.0f} {lasts:7,.0f}  {each.process:<10}{'  ' * depth}{each.name}"
            )
            draw(each.span_id, depth + 1)

    draw("", 0)
    return "\n".join([f"{'start':>7} {'ms':>7}  process   span", *lines])
