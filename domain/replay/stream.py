"""Replay of one aggregate, event by event, with a check that each event continues the last."""

from __future__ import annotations

from functools import cache
from typing import TypeVar

from domain.core.aggregate import Aggregate, Event
from domain.core.errors import DomainError
from domain.core.recorded import Recorded

A = TypeVar("A", bound=Aggregate)

MISFITS = (DomainError, AssertionError, AttributeError, LookupError, TypeError, ValueError)
"""Errors of an event whose fields contradict the state before it."""


class BrokenStream(Exception):
    """An event that does not continue the events before it in the log."""


def is_of(kind: type[Aggregate], event: Event) -> bool:
    """Return True if an event belongs to this kind of aggregate."""
    return event.TOPIC in _topics(kind)


@cache
def _topics(kind: type[Aggregate]) -> frozenset[str]:
    return frozenset(each.TOPIC for each in kind.event_classes())


def after(kind: type[A], before: A | None, item: Recorded) -> A:
    """Return an aggregate after its next event; `before` is None for its first one.

    The result may be the same object. Raise BrokenStream if the event is not the next one, or if it
    contradicts the state.
    """
    event = item.event
    expected = 1 if before is None else before.version + 1
    if event.originator_version != expected:
        raise BrokenStream(
            f"Event {item.id} ({event.TOPIC}) has number {event.originator_version} in its stream, "
            f"but number {expected} is next. Events are missing, or this one was inserted."
        )
    try:
        found: object = event.mutate(before)
    except MISFITS as error:
        raise BrokenStream(
            f"Event {item.id} ({event.TOPIC}) contradicts the events before it: "
            f"{error or type(error).__name__}."
        ) from error
    if not isinstance(found, kind):
        raise BrokenStream(f"Event {item.id} ({event.TOPIC}) is not of a {kind.__name__}.")
    return found
