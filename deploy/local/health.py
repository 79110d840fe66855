"""Detection of processes that run but do not keep up with the event log."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from datetime import datetime, timedelta

import psycopg

from domain.core.durations import spoken
from infrastructure.disk_space import DiskLevel, disk_space
from infrastructure.event_handlers import HANDLERS, parked_events
from infrastructure.settings import Settings
from infrastructure.store import connect
from projections import PROJECTIONS
from projections.projection import behind, consumer_name

MAX_LAG = timedelta(minutes=5)
"""Maximum age of an event that a consumer has not processed.

Most events take milliseconds. Validating a large dataset or loading a large model takes a minute or
two.
"""

CONSUMERS = {
    "projector": tuple(map(consumer_name, PROJECTIONS)),
    **{service: (service,) for service in HANDLERS},
}
"""Consumers of the event log, by process."""


def problems(settings: Settings, processes: Collection[str], now: datetime) -> list[str]:
    """Return one sentence for each problem of these processes that needs an operator."""
    found: list[str] = []
    space = disk_space(settings)
    if space.level is not DiskLevel.OK:
        found.append(f"Disk space is {space.level}: {space} in {settings.home}. Free some space.")
    return found + _of_consumers(settings, processes, now)


def _of_consumers(settings: Settings, processes: Collection[str], now: datetime) -> list[str]:
    consumers = [each for name, own in CONSUMERS.items() if name in processes for each in own]
    try:
        with connect(settings) as connection:
            late = behind(connection, consumers)
            parked = Counter(row["consumer"] for row in parked_events(connection))
    except psycopg.OperationalError as error:
        return [f"The database does not respond. See its log. {error}"]
    return [
        *(
            f"{row['consumer']} is {_events(row['events'])} behind ("
            f"{spoken((now - row['since']).total_seconds())}). See the log of its process."
            for row in late
            if now - row["since"] > MAX_LAG
        ),
        *(
            f"{consumer} has parked {_events(count)}. See `ecolink events parked`."
            for consumer, count in sorted(parked.items())
        ),
    ]


def _events(count: int) -> str:
    return f"{count:,} {'event' if count == 1 else 'events'}"
