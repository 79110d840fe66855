"""Topics of events and of aggregates."""

from __future__ import annotations

from domain.core.aggregate import Aggregate, Event

Kind = type[Aggregate] | type[Event]
"""An event, or an aggregate, which stands for all its events."""


def topics_of(*kinds: Kind) -> frozenset[str]:
    """Return the topics of individual events, and of all events of aggregates."""
    found: set[str] = set()
    for kind in kinds:
        if issubclass(kind, Event):
            found.add(kind.TOPIC)
        else:
            found |= {each.TOPIC for each in kind.event_classes()}
    return frozenset(found)
