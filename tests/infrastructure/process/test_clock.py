"""The platform's clocks."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from infrastructure.process.clock import clock_of
from infrastructure.settings import Settings

ORIGIN = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)


def test_a_fast_clock_multiplies_the_time_since_its_origin() -> None:
    clock = clock_of(Settings(clock_speed=60.0, clock_origin=ORIGIN))
    assert clock.at(ORIGIN) == ORIGIN
    assert clock.at(ORIGIN + timedelta(seconds=2)) == ORIGIN + timedelta(minutes=2)


def test_the_default_clock_is_the_machines() -> None:
    clock, before = clock_of(Settings()), datetime.now(UTC)
    assert clock.at(ORIGIN) == ORIGIN
    assert before <= clock.now() <= datetime.now(UTC)


def test_a_fast_clock_without_an_origin_is_refused() -> None:
    with pytest.raises(ValueError, match="ECOLINK_CLOCK_ORIGIN"):
        clock_of(Settings(clock_speed=2.0))
