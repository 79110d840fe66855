"""Events with their place in the event log."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from uuid import UUID

from domain.core.aggregate import Event


class Recorded:
    """A domain event with its notification ID. `decode` returns the event on first use."""

    def __init__(
        self, id: int, topic: str, originator_id: UUID, decode: Callable[[], Event]
    ) -> None:
        self.id, self.topic, self.originator_id = id, topic, originator_id
        self._decode = decode

    @classmethod
    def of(cls, id: int, event: Event) -> Recorded:
        """Return a decoded event with its notification ID."""
        return cls(id, event.TOPIC, event.originator_id, lambda: event)

    @cached_property
    def event(self) -> Event:
        """The event. Raise the error of `decode` if the stored event is invalid."""
        return self._decode()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Recorded) and (self.id, self.event) == (other.id, other.event)

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"Recorded({self.id}, {self.topic})"
