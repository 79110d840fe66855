"""Detection of processes that run but do not keep up with the event log."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

import psycopg

from infrastructure.postgres.store import connect
from infrastructure.process.disk_space import disk_space
from infrastructure.settings import Settings
from projections.consumers import CONSUMERS, consumer_lags, lag_problems, parked_problems


def problems(settings: Settings, processes: Collection[str], now: datetime) -> list[str]:
    """Return one sentence for each problem of these processes that needs an operator."""
    full = disk_space(settings).problem(settings.home)
    return [*([full] if full else []), *_of_consumers(settings, processes, now)]


def _of_consumers(settings: Settings, processes: Collection[str], now: datetime) -> list[str]:
    consumers = [each for name, own in CONSUMERS.items() if name in processes for each in own]
    try:
        with connect(settings) as connection:
            late = lag_problems(consumer_lags(connection, consumers), now)
            return late + parked_problems(connection)
    except psycopg.OperationalError as error:
        return [f"The database does not respond. See its log. {error}"]
