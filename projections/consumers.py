"""Consumers of the event log: the read models and the services, with their lag."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from domain.core.durations import spoken
from infrastructure.bus.event_handlers import HANDLERS, parked_events
from infrastructure.postgres.store import Connection
from projections import PROJECTIONS
from projections.projection import behind, consumer_name

MAX_LAG = timedelta(minutes=5)
"""Maximum age of an event that a consumer has not processed.

Most events take milliseconds. Validating a large dataset or loading a large model takes a minute or
two.
"""

CONSUMERS: dict[str, tuple[str, ...]] = {
    "projector": tuple(map(consumer_name, PROJECTIONS)),
    **{service: (service,) for service in HANDLERS},
}
"""Consumers of the event log, by process."""

ALL_CONSUMERS = tuple(each for own in CONSUMERS.values() for each in own)


@dataclass(frozen=True)
class ConsumerLag:
    """The events that a consumer has not processed, and those that it parked."""

    consumer: str
    events: int
    since: datetime | None
    """Time of the oldest event that is not processed. None if the consumer is up to date."""
    parked: int

    def seconds(self, now: datetime) -> float:
        """Return the age of the oldest event that is not processed."""
        return 0.0 if self.since is None else max(0.0, (now - self.since).total_seconds())

    def is_late(self, now: datetime) -> bool:
        """Return True if that event is older than MAX_LAG."""
        return self.since is not None and now - self.since > MAX_LAG


def consumer_lags(
    connection: Connection, consumers: Sequence[str] = ALL_CONSUMERS
) -> list[ConsumerLag]:
    """Return the lag of the given consumers, in the given order."""
    late = {row["consumer"]: row for row in behind(connection, consumers)}
    parked = Counter(row["consumer"] for row in parked_events(connection))
    return [
        ConsumerLag(
            name,
            late[name]["events"] if name in late else 0,
            late[name]["since"] if name in late else None,
            parked[name],
        )
        for name in consumers
    ]


def lag_problems(lags: Iterable[ConsumerLag], now: datetime) -> list[str]:
    """Return one sentence for each process with late consumers. It has their largest lag.

    If only some consumers of a process are late, it names them.
    """
    late = {each.consumer: each for each in lags if each.is_late(now)}
    problems: list[str] = []
    for process, consumers in CONSUMERS.items():
        found = [late[name] for name in consumers if name in late]
        if not found:
            continue
        names = ", ".join(each.consumer for each in found)
        which = "" if len(found) == len(consumers) else f" with {names}"
        events = max(each.events for each in found)
        seconds = max(each.seconds(now) for each in found)
        problems.append(
            f"{process} is {_events(events)} behind{which} ({spoken(seconds)}). See its log."
        )
    return problems


def parked_problems(connection: Connection) -> list[str]:
    """Return one sentence for each consumer that has parked events."""
    parked = Counter(row["consumer"] for row in parked_events(connection))
    return [
        f"{consumer} has parked {_events(count)}. See `ecolink events parked`."
        for consumer, count in sorted(parked.items())
    ]


def _events(count: int) -> str:
    return f"{count:,} {'event' if count == 1 else 'events'}"
