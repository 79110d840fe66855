"""The clock of a process. Tests can set it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Protocol

from infrastructure.settings import Settings


class Clock(Protocol):
    """A source of UTC time. Implementations are thread-safe."""

    def now(self) -> datetime:
        """Return the current time in UTC."""
        ...

    def at(self, moment: datetime) -> datetime:
        """Convert a real time, such as the database's, to the time of this clock."""
        ...


class SystemClock:
    """The clock of the machine."""

    def now(self) -> datetime:
        """Return the current time in UTC."""
        return datetime.now(UTC)

    def at(self, moment: datetime) -> datetime:
        """Return `moment` unchanged."""
        return moment


class FastClock:
    """A clock for tests and demos. It has run `speed` times as fast as real time since `origin`."""

    def __init__(self, speed: float, origin: datetime) -> None:
        self._speed = speed
        self._origin = origin

    def now(self) -> datetime:
        """Return the current time of this clock in UTC."""
        return self.at(datetime.now(UTC))

    def at(self, moment: datetime) -> datetime:
        """Convert a real time to the time of this clock."""
        return self._origin + (moment - self._origin) * self._speed


def clock_of(settings: Settings) -> Clock:
    """Return the configured clock. All processes of a deployment have the same clock."""
    if settings.clock_speed == 1.0:
        return SystemClock()
    if settings.clock_origin is None:
        raise ValueError("ECOLINK_CLOCK_SPEED is set without ECOLINK_CLOCK_ORIGIN. Set both.")
    return FastClock(settings.clock_speed, settings.clock_origin)
