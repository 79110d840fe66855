"""Traces that continue from events, and cost nothing while they are off."""

from __future__ import annotations

import os
import subprocess
import sys
from threading import Event
from unittest.mock import Mock

import pytest

from infrastructure.process import tracing
from tests.builders.traces import Collector, Span, orphans, path_to

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
ROOT = Span(PARENT[3:35], PARENT[36:52], "", "POST /api/jobs", "gateway", 0, 1, {})
UNSAMPLED = PARENT.removesuffix("01") + "00"

IMPORTED = """
import sys
import deploy.run, infrastructure.bus.event_handlers
from infrastructure.process import tracing
tracing.start("gateway")
with tracing.continued(None, "process JobApproved"), tracing.timed("launch"):
    assert tracing.ids() == {}
print(tracing.is_on(), "opentelemetry.sdk" in sys.modules)
"""


def outcome(**environment: str) -> str:
    """Return whether a process traces, and whether it has imported the SDK."""
    inherited = {name: each for name, each in os.environ.items() if not name.startswith("OTEL_")}
    command = [sys.executable, "-c", IMPORTED]
    return subprocess.check_output(command, env=inherited | environment, text=True).strip()


@pytest.mark.full
def test_without_a_collector_the_sdk_is_not_imported() -> None:
    assert outcome() == "False False"


@pytest.mark.parametrize(
    ("variable", "value"), [("OTEL_SDK_DISABLED", "true"), ("OTEL_TRACES_EXPORTER", "none")]
)
def test_the_standard_switches_turn_tracing_off(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setattr(tracing, "_tracing", None)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv(variable, value)
    tracing.start("relay")
    assert not tracing.is_on()


def test_a_step_continues_the_trace_of_its_event(collector: Collector) -> None:
    with tracing.continued(PARENT, "process JobApproved", event_id="7:1") as step:
        current = tracing.traceparent()
        assert tracing.ids()["trace_id"] == PARENT.split("-")[1]
        step.kept = True
    (span,) = collector.spans
    assert (span.name, span.traceparent) == ("process JobApproved", current)
    assert span.parent_id == PARENT.split("-")[2]
    assert span.attributes == {"ecolink.event_id": "7:1"}
    assert tracing.traceparent() is None


def test_a_step_that_saves_nothing_has_no_span(collector: Collector) -> None:
    with tracing.continued(PARENT, "process JobApproved"):
        pass
    assert collector.names == []


def test_a_step_with_a_child_has_a_span(collector: Collector) -> None:
    """Another thread may have saved the pod that the step launched."""
    with tracing.continued(PARENT, "process LeaseGranted"), tracing.timed("launch", pod="1"):
        pass
    assert collector.names == ["launch", "process LeaseGranted"]
    assert path_to([ROOT, *collector.spans], collector.named("launch"))[1:] == [
        "test: process LeaseGranted",
        "test: launch",
    ]


def test_a_failed_step_has_a_span(collector: Collector) -> None:
    with (
        pytest.raises(ValueError, match="broken"),
        tracing.continued(PARENT, "process JobApproved"),
    ):
        raise ValueError("broken")
    assert collector.names == ["process JobApproved"]


@pytest.mark.parametrize("parent", [None, UNSAMPLED])
def test_no_trace_starts_without_a_sampled_parent(collector: Collector, parent: str | None) -> None:
    with tracing.continued(parent, "process JobApproved") as step:
        step.kept = True
        assert tracing.traceparent() is None
        with tracing.timed("launch"):
            pass
    assert collector.names == []


def test_spans_of_another_program_have_its_name_and_times(collector: Collector) -> None:
    parent = tracing.record(PARENT, "start trainer", (1_000, 5_000), process="trainer")
    tracing.record(parent, "first step", (2_000, 5_000), process="trainer")
    outer, inner = collector.spans
    assert (outer.process, inner.process) == ("trainer", "trainer")
    assert (inner.started_ns, inner.ended_ns) == (2_000, 5_000)
    assert inner.parent_id == outer.span_id
    assert orphans(collector.spans) == ["start trainer"]


def test_a_process_ends_although_the_collector_does_not_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tracing, "EXIT_SECONDS", 0.01)
    never = Event()
    tracing.Tracing("relay", Mock(shutdown=never.wait)).close()
    never.set()
