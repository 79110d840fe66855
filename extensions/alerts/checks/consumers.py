"""Consumers of the event log that are behind or have parked events."""

from __future__ import annotations

from collections import Counter

from domain.core.durations import spoken
from extensions.alerts.checks.surroundings import Surroundings
from extensions.alerts.domain.cause import Finding
from extensions.alerts.domain.parameters import LagParameters, Parameters
from infrastructure.bus.event_handlers import parked_events
from projections import PROJECTIONS
from projections.projection import behind, consumer_name


def lagging(around: Surroundings, parameters: Parameters) -> list[Finding]:
    """Return the consumers whose oldest unprocessed event is too old.

    They are the read models, and the processes that have a position in the log. If the relay is
    down, all consumers are behind.
    """
    assert isinstance(parameters, LagParameters)
    rows = around.connection.execute(
        "SELECT application_name FROM ecolink_tracking "
        "JOIN leaderships ON name = application_name ORDER BY 1"
    ).fetchall()
    consumers = [*map(consumer_name, PROJECTIONS), *(row["application_name"] for row in rows)]
    return [
        Finding(
            {"consumer": row["consumer"]},
            f"{row['consumer']} is {row['events']:,} events behind "
            f"({spoken((around.now - row['since']).total_seconds())}).",
        )
        for row in behind(around.connection, consumers)
        if around.now - row["since"] > parameters.older_than
    ]


def parked(around: Surroundings, _: Parameters) -> list[Finding]:
    """Return the consumers that have parked events."""
    counts = Counter(row["consumer"] for row in parked_events(around.connection))
    return [
        Finding(
            {"consumer": consumer},
            f"{consumer} has parked {count:,} {'event' if count == 1 else 'events'}. "
            "See `ecolink events parked`.",
        )
        for consumer, count in sorted(counts.items())
    ]
