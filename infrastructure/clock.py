"""The clock that every process is given: UTC time, injected, so that tests can move it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Protocol

from infrastructure.settings import Settings


class Clock(Protocol):
    """Tells the time."""

    def now(self) -> datetime:
        """The present time in UTC."""
        ...

    def at(self, moment: datetime) -> datetime:
        """This clock's time at a moment of the real time, such as a database's."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        """The present time in UTC."""
        return datetime.now(UTC)

    def at(self, moment: datetime) -> datetime:
        """The moment itself."""
        return moment


class FastClock:
    """Runs faster than time from an origin on, so that a day of billing passes in seconds."""

    def __init__(self, speed: float, origin: datetime) -> None:
        self._speed = speed
        self._origin = origin

    def now(self) -> datetime:
        """The origin and all that has passed since, multiplied."""
        return self.at(datetime.now(UTC))

    def at(self, moment: datetime) -> datetime:
        """This clock's time at a moment of the real time."""
        return self._origin + (moment - self._origin) * self._speed


def clock_of(settings: Settings) -> Clock:
    """The clock that the settings ask for; every process of a stack has the same."""
    if settings.clock_speed == 1.0:
        return SystemClock()
    if settings.clock_origin is None:
        raise ValueError("ECOLINK_CLOCK_SPEED needs ECOLINK_CLOCK_ORIGIN")
    return FastClock(settings.clock_speed, settings.clock_origin)
