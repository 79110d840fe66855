"""The entries of a log in memory, as an audit reads them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from uuid import UUID

from domain.core.event_log import EventLog
from domain.core.recorded import Recorded
from domain.replay.entry import DamagedEvent, Entry
from infrastructure.bus.consumer import recorded
from tests.logs import notifications


def entries_of(log: EventLog) -> list[Entry]:
    """Return all events of a log."""
    return [recorded(log, each) for each in notifications(log)]


def damaged(entry: Entry) -> DamagedEvent:
    """Return the same entry, but damaged."""
    assert isinstance(entry, Recorded)
    return DamagedEvent(entry.id, entry.event.event_id, entry.event.TOPIC, "the state is not JSON")


class Entries:
    """A log reader in memory."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.entries = list(entries)

    def last(self, topic: str) -> Recorded:
        """Return the last event with a topic."""
        return self.all(topic)[-1]

    def all(self, topic: str) -> list[Recorded]:
        """Return the events with a topic."""
        return [
            each for each in self.entries if isinstance(each, Recorded) and topic == _topic(each)
        ]

    def named(self, event_id: str) -> Entry | None:
        return next((each for each in self.entries if _id(each) == event_id), None)

    def backwards(self, stream: UUID, topics: Sequence[str], before: int) -> Iterator[Entry]:
        for each in reversed(self.entries):
            in_stream = _id(each).startswith(f"{stream}:")
            if each.id < before and in_stream and _topic(each) in topics:
                yield each

    def around(self, id: int) -> Sequence[Entry]:
        return self.entries

    def effects(self, cause: Recorded) -> Iterator[Entry]:
        for each in self.entries:
            if isinstance(each, Recorded) and each.event.causation_id == cause.event.event_id:
                yield each


def _id(entry: Entry) -> str:
    return entry.event_id if isinstance(entry, DamagedEvent) else entry.event.event_id


def _topic(entry: Entry) -> str:
    return entry.topic if isinstance(entry, DamagedEvent) else entry.event.TOPIC
