"""OpenTelemetry traces, which continue from a command over its events to their consumers.

Tracing is off unless OpenTelemetry's own environment variables name a collector. While it is off,
every function here does nothing, and the SDK is not imported. An event stores the span of its
command as `traceparent`. A consumer continues the trace from there, so the bus, the log and a
replay of the log give the same parents.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from threading import Thread
from time import time_ns
from typing import TYPE_CHECKING, Literal

from infrastructure.extras import TRACING, require
from infrastructure.process.role import current_role

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
    from opentelemetry.trace import Span, Tracer

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
"""Environment variables of OpenTelemetry. Either turns tracing on."""

EXTRA = TRACING, "Tracing"
NAMESPACE = "ecolink"
EXIT_SECONDS = 2.0
"""Maximum seconds for which a process waits at its end until the collector has its last spans."""


Attributes = Mapping[str, str]
"""Attributes of a span by name, without the prefix of the namespace."""

NONE: Attributes = {}


@dataclass
class Tracing:
    """The tracers of a process: its own, and those of programs for which it reports spans."""

    process: str
    processor: SpanProcessor
    _providers: dict[str, TracerProvider] = field(default_factory=dict)

    def provider(self, process: str) -> TracerProvider:
        """Return the provider whose spans have this process as their service."""
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider

        if process not in self._providers:
            names = {"service.namespace": NAMESPACE, "service.name": process}
            made = TracerProvider(resource=Resource.create(names), shutdown_on_exit=False)
            made.add_span_processor(self.processor)
            self._providers[process] = made
        return self._providers[process]

    def tracer(self, process: str | None = None) -> Tracer:
        """Return the tracer of a process, by default of this role or process."""
        role = current_role()
        own = self.process if role is None else role.name
        return self.provider(process or own).get_tracer(NAMESPACE)

    def close(self) -> None:
        """Export the last spans, but do not wait for a collector that does not answer."""
        closing = Thread(target=self.processor.shutdown, name="tracing", daemon=True)
        closing.start()
        closing.join(EXIT_SECONDS)


_tracing: Tracing | None = None


def is_configured() -> bool:
    """Return True if the environment names a collector."""
    disabled = os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    unexported = os.environ.get("OTEL_TRACES_EXPORTER", "otlp").strip().lower() == "none"
    return not (disabled or unexported) and any(os.environ.get(name) for name in ENDPOINTS)


def start(process: str) -> None:
    """Turn tracing on in this process if the environment names a collector.

    Raise MissingExtra if it does, and OpenTelemetry is not installed.
    """
    global _tracing  # one per process
    if not is_configured():
        return
    require(*EXTRA)
    from opentelemetry import trace
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    _tracing = Tracing(process, BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(_tracing.provider(process))  # FastAPI uses it
    if os.environ.get("OTEL_PROPAGATORS", "none") == "none":
        ignore_clients()
    atexit.register(_tracing.close)


def ignore_clients() -> None:
    """Start a trace for each request: clients must not choose which requests are sampled."""
    from opentelemetry.baggage.propagation import W3CBaggagePropagator
    from opentelemetry.propagate import set_global_textmap

    set_global_textmap(W3CBaggagePropagator())


def is_on() -> bool:
    """Return True if this process traces."""
    return _tracing is not None


def traceparent() -> str | None:
    """Return the current span as in W3C Trace Context; None if it is not sampled or off."""
    if _tracing is None:
        return None
    from opentelemetry import trace

    return _text(trace.get_current_span())


def ids() -> dict[str, str]:
    """Return `trace_id` and `span_id` of the current span; empty if there is none."""
    current = traceparent()
    if current is None:
        return {}
    _, trace_id, span_id, _ = current.split("-")
    return {"trace_id": trace_id, "span_id": span_id}


def same_trace(one: str | None, other: str | None) -> bool:
    """Return True if both spans are in the same trace, or both are None."""
    return _trace_id(one) == _trace_id(other)


def _trace_id(parent: str | None) -> str | None:
    return None if parent is None else parent.split("-")[1]


@dataclass
class Step:
    """A step in the trace of `parent`. Its span is exported only if it is `kept`.

    Most event handlers have nothing to do for most events. A step is kept if it saved events, if it
    failed, or if another span has it as its parent.
    """

    parent: str | None = None
    kept: bool = False


_step: ContextVar[Step] = ContextVar("step")


@contextmanager
def continued(parent: str | None, name: str, **attributes: str) -> Generator[Step]:
    """Continue the trace of a `traceparent` with a span of the block, if there is one.

    A trace starts only with an HTTP request. Without a parent, the block has no span.
    """
    step = Step(parent)
    if _tracing is None or parent is None:
        yield step
        return
    from opentelemetry import trace

    span = _tracing.tracer().start_span(
        name, _context(parent), trace.SpanKind.CONSUMER, _named(attributes)
    )
    token = _step.set(step)
    try:
        with trace.use_span(span):
            yield step
    except BaseException:
        step.kept = True
        raise
    finally:
        _step.reset(token)
        if step.kept:
            span.end()  # a span that does not end is not exported


@contextmanager
def timed(name: str, **attributes: str) -> Generator[None]:
    """Record the block as a child of the current span if it raises no error."""
    parent, started_ns = traceparent(), time_ns()
    yield
    if parent is not None:
        record(parent, name, (started_ns, time_ns()), attributes=attributes)
        if (step := _step.get(None)) is not None:
            step.kept = True


def record(
    parent: str,
    name: str,
    period: tuple[int, int],
    *,
    process: str | None = None,
    kind: Literal["INTERNAL", "PRODUCER"] = "INTERNAL",
    attributes: Attributes = NONE,
) -> str:
    """Record an ended span (nanoseconds), maybe of another process. Return its `traceparent`."""
    assert _tracing is not None
    from opentelemetry import trace

    started_ns, ended_ns = period
    span = _tracing.tracer(process).start_span(
        name, _context(parent), trace.SpanKind[kind], _named(attributes), start_time=started_ns
    )
    span.end(ended_ns)
    return _text(span) or parent


def _context(parent: str) -> Context:
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator().extract({"traceparent": parent})


def _text(span: Span) -> str | None:
    context = span.get_span_context()
    if not context.is_valid or not context.trace_flags.sampled:
        return None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-01"


def _named(attributes: Attributes) -> dict[str, str]:
    return {f"{NAMESPACE}.{name}": value for name, value in attributes.items()}
