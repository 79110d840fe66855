"""Events with their place in the event log."""

from __future__ import annotations

from dataclasses import dataclass

from domain.core.aggregate import Event


@dataclass(frozen=True)
class Recorded:
    """A domain event with its notification ID."""

    id: int
    event: Event
