"""Retries with exponential back-off. The state is in memory."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Generic, TypeVar

FIRST_PAUSE = timedelta(seconds=5)
MAX_PAUSE = timedelta(minutes=5)

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Pause:
    """The next attempt of a key, the pause before it, and the number of failures."""

    until: datetime
    length: timedelta
    failures: int


class Backoff(Generic[Key]):
    """Keys that wait for their next attempt, with doubled pauses, until the process restarts."""

    def __init__(self, first: timedelta = FIRST_PAUSE, maximum: timedelta = MAX_PAUSE) -> None:
        self._first, self._maximum = first, maximum
        self._pauses: dict[Key, Pause] = {}

    def postpone(self, key: Key, now: datetime) -> timedelta:
        """Postpone the next attempt of a key. Return the length of the pause."""
        before = self._pauses.get(key)
        length = self._first if before is None else min(2 * before.length, self._maximum)
        self._pauses[key] = Pause(now + length, length, self.failures(key) + 1)
        return length

    def failures(self, key: Key) -> int:
        """Return the number of times that a key was postponed since its last reset."""
        before = self._pauses.get(key)
        return 0 if before is None else before.failures

    def reset(self, key: Key) -> None:
        """Remove a key after a successful attempt."""
        self._pauses.pop(key, None)

    def due(self, now: datetime) -> list[Key]:
        """Return the keys whose pause is over, in the order of their first failures."""
        return [key for key, pause in list(self._pauses.items()) if pause.until <= now]

    def waiting(self, now: datetime) -> set[Key]:
        """Return the keys whose pause is not over."""
        return {key for key, pause in list(self._pauses.items()) if pause.until > now}
