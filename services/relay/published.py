"""Metrics and traces of published batches."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from time import time_ns

from domain.billing.meter import Meter
from infrastructure.process import tracing
from infrastructure.process.metrics import (
    CHARGED_MICROS,
    METERED_SECONDS,
    PUBLISH_DELAY_SECONDS,
    PUBLISHED_EVENTS,
)
from services.relay.batch import Batch


def record_published(batch: Batch) -> None:
    """Count the events of a stored batch in the metrics. Record a span for each traced event."""
    _count(batch)
    if tracing.is_on():
        _trace(batch)


def _count(batch: Batch) -> None:
    now = datetime.now(UTC)
    for topic, number in Counter(each.notification.topic for each in batch.events).items():
        PUBLISHED_EVENTS.labels(topic).inc(number)
    for each in batch.events:
        at = datetime.fromisoformat(each.state["timestamp"])
        PUBLISH_DELAY_SECONDS.observe(max(0.0, (now - at).total_seconds()))
    minutes = [
        each.state for each in batch.events if each.notification.topic == Meter.MinuteMetered.TOPIC
    ]
    METERED_SECONDS.inc(sum(each["to_seconds"] - each["from_seconds"] for each in minutes))
    CHARGED_MICROS.inc(sum(each["amount_micros"] for each in minutes))


def _trace(batch: Batch) -> None:
    period = batch.started_ns, time_ns()
    for each in batch.events:
        if (traceparent := each.state.get("traceparent")) is not None:
            found = each.notification
            event_id = f"{found.originator_id}:{found.originator_version}"
            name, attributes = f"publish {found.topic}", {"event_id": event_id}
            tracing.record(traceparent, name, period, kind="PRODUCER", attributes=attributes)
