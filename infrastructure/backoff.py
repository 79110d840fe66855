"""What failed for a reason that may pass: it is tried again later, and later each time."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Generic, TypeVar

FIRST_PAUSE = timedelta(seconds=5)
LONGEST_PAUSE = timedelta(minutes=5)

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Pause:
    """When something is tried again, how long that was put off, and how often it was."""

    until: datetime
    length: timedelta
    tries: int


class Postponed(Generic[Key]):
    """Things that are tried again later, each after twice the time that it waited before.

    Kept in memory alone: a process that starts tries everything anyway.
    """

    def __init__(self, first: timedelta = FIRST_PAUSE, longest: timedelta = LONGEST_PAUSE) -> None:
        self._first, self._longest = first, longest
        self._pauses: dict[Key, Pause] = {}

    def put_off(self, key: Key, now: datetime) -> timedelta:
        """Try it again later; returns in how long."""
        before = self._pauses.get(key)
        length = self._first if before is None else min(2 * before.length, self._longest)
        self._pauses[key] = Pause(now + length, length, self.tries(key) + 1)
        return length

    def tries(self, key: Key) -> int:
        """How often it was put off since it was settled."""
        before = self._pauses.get(key)
        return 0 if before is None else before.tries

    def settled(self, key: Key) -> None:
        """There is nothing to try any more."""
        self._pauses.pop(key, None)

    def due(self, now: datetime) -> list[Key]:
        """What is to be tried now, in the order in which it was put off first."""
        return [key for key, pause in list(self._pauses.items()) if pause.until <= now]

    def waiting(self, now: datetime) -> set[Key]:
        """What is not to be tried yet."""
        return {key for key, pause in list(self._pauses.items()) if pause.until > now}
