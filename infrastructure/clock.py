"""The injected clock of every process. Tests can set it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Protocol

from infrastructure.settings import Settings


class Clock(Protocol):
    """Source of UTC time. Implementations are thread-safe."""

    def now(self) -> datetime:
        """The present time in UTC."""
        ...

    def at(self, moment: datetime) -> datetime:
        """This clock's time at a moment of real time, such as the database's."""
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
    """Runs `speed` times as fast as real time since `origin`. For tests and demos."""

    def __init__(self, speed: float, origin: datetime) -> None:
        self._speed = speed
        self._origin = origin

    def now(self) -> datetime:
        """The present time of this clock in UTC."""
        return self.at(datetime.now(UTC))

    def at(self, moment: datetime) -> datetime:
        """This clock's time at a moment of real time."""
        return self._origin + (moment - self._origin) * self._speed


def clock_of(settings: Settings) -> Clock:
    """The clock that the settings name, the same for every process of a stack."""
    if settings.clock_speed == 1.0:
        return SystemClock()
    if settings.clock_origin is None:
        raise ValueError("ECOLINK_CLOCK_SPEED is set without ECOLINK_CLOCK_ORIGIN. Set both.")
    return FastClock(settings.clock_speed, settings.clock_origin)
