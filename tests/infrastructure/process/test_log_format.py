"""Log records as JSON objects."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

from domain.core.aggregate import Cause, because
from infrastructure.process import tracing
from infrastructure.process.log_format import JsonLine
from tests.builders.traces import Collector

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)


def formatted(message: str, *values: object, **extra: object) -> dict[str, Any]:
    error = sys.exc_info() if sys.exc_info()[0] else None
    record = logging.LogRecord("ticker", logging.INFO, "f.py", 1, message, values, error)
    record.created = NOW.timestamp()
    vars(record).update(extra)
    line = JsonLine("billing").format(record)
    assert "\n" not in line
    return json.loads(line)


def test_a_record_is_one_line_with_its_fields() -> None:
    assert formatted("%s\nchanged", "account") == {
        "time": "2026-11-28T12:00:00.000+00:00",
        "level": "INFO",
        "process": "billing",
        "logger": "ticker",
        "message": "account\nchanged",
    }


def test_a_record_names_its_command_and_the_event_that_caused_it() -> None:
    with because(Cause("service:billing", "tick:1", NOW, "7:1")):
        record = formatted("settled")
    assert (record["actor"], record["command_id"]) == ("service:billing", "tick:1")
    assert record["causation_id"] == "7:1"
    assert "command_id" not in formatted("outside of a command")


def test_a_record_has_the_fields_of_a_request_and_a_traceback() -> None:
    try:
        raise ValueError("broken")
    except ValueError:
        record = formatted("failed", request_id="r-1", duration_ms=12, other="ignored")
    assert (record["request_id"], record["duration_ms"]) == ("r-1", 12)
    assert "ValueError: broken" in record["traceback"]
    assert "other" not in record


def test_a_record_names_the_current_span(collector: Collector) -> None:
    with tracing.continued(f"00-{'a' * 32}-{'b' * 16}-01", "process JobApproved") as step:
        step.kept = True
        record = formatted("launching")
    (span,) = collector.spans
    assert (record["trace_id"], record["span_id"]) == (span.trace_id, span.span_id)
    assert "trace_id" not in formatted("outside of a span")
