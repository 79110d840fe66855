"""Whether the processes keep up with the event log, which being alive does not say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from datetime import datetime, timedelta

import psycopg

from domain.core.durations import spoken
from infrastructure.disk_space import DiskLevel, disk_space
from infrastructure.reaction import parked_reactions
from infrastructure.settings import Settings
from infrastructure.store import connect
from projections import PROJECTIONS
from projections.lag import behind
from projections.projection import consumer_name

MOST_LAG = timedelta(minutes=5)
"""How old an event may get before a consumer has seen it. Most take milliseconds; to validate a
large dataset, or to load a large model, takes a minute or two."""

CONSUMERS = {
    "projector": tuple(map(consumer_name, PROJECTIONS)),
    **{service: (service,) for service in ("billing", "scheduler", "datasets", "serving")},
}
"""The consumers of the event log, by the process that runs them."""


def complaints(settings: Settings, processes: Collection[str], now: datetime) -> list[str]:
    """A sentence for each thing that an operator has to see to, of what these processes do."""
    said: list[str] = []
    space = disk_space(settings)
    if space.level is not DiskLevel.OK:
        said.append(f"Disk space is {space.level}: {space} in {settings.home}.")
    return said + _of_consumers(settings, processes, now)


def _of_consumers(settings: Settings, processes: Collection[str], now: datetime) -> list[str]:
    consumers = [each for name, own in CONSUMERS.items() if name in processes for each in own]
    try:
        with connect(settings) as connection:
            late = behind(connection, consumers)
            parked = Counter(row["consumer"] for row in parked_reactions(connection))
    except psycopg.OperationalError as error:
        return [f"The database does not answer: {error}"]
    return [
        *(
            f"{row['consumer']} is {row['events']} events behind, by "
            f"{spoken((now - row['since']).total_seconds())}; the log of its process says why."
            for row in late
            if now - row["since"] > MOST_LAG
        ),
        *(
            f"{consumer} has parked {count} of its events; `ecolink events parked` says why."
            for consumer, count in sorted(parked.items())
        ),
    ]
