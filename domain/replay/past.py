"""States as of a moment, folded from the event log."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, Protocol, TypeVar

from domain.core.recorded import Recorded
from domain.replay.entry import DamagedEvent, Entry
from domain.replay.stream import BrokenStream


class State(Protocol):
    """A state that events change."""

    def apply(self, item: Recorded) -> None:
        """Apply the next event. Raise BrokenStream if it does not fit."""
        ...


S = TypeVar("S", bound=State)


@dataclass(frozen=True)
class Moment:
    """A moment in the log: up to a time, up to an event, or up to its end if both are None.

    Both ends are inclusive. The clocks of two services can differ a little. A state therefore ends
    before the first event in the log that is later than the time.
    """

    time: datetime | None = None
    event: int | None = None

    def is_before(self, entry: Entry) -> bool:
        """Return True if an entry is later. The time of a damaged one is unknown."""
        if self.event is not None and entry.id > self.event:
            return True
        if self.time is None or isinstance(entry, DamagedEvent):
            return False
        return entry.event.timestamp > self.time


@dataclass(frozen=True)
class Past(Generic[S]):
    """A state, the events of which it was folded, and the `problem` at which the fold stopped."""

    state: S
    events: int
    last: Recorded | None
    """The last event that was applied."""

    next: Entry | None
    """The first event that was not applied."""

    problem: str | None


def state_at(state: S, entries: Iterable[Entry], moment: Moment) -> Past[S]:
    """Apply the events of the log up to a moment to an empty state."""
    count, last = 0, None
    for entry in entries:
        if moment.is_before(entry):
            return Past(state, count, last, entry, None)
        if isinstance(entry, DamagedEvent):
            text = f"Event {entry.id} ({entry.topic}) is damaged: {entry.problem}."
            return Past(state, count, last, entry, text)
        try:
            state.apply(entry)
        except BrokenStream as error:
            return Past(state, count, last, entry, str(error))
        count, last = count + 1, entry
    return Past(state, count, last, None, None)
