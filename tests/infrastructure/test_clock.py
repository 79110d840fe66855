"""The platform's clocks."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from infrastructure.clock import FastClock, SystemClock, clock_of
from infrastructure.settings import Settings

ORIGIN = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)


def test_a_fast_clock_begins_at_its_origin_and_multiplies_what_passes() -> None:
    clock = FastClock(60.0, ORIGIN)
    assert clock.at(ORIGIN) == ORIGIN
    assert clock.at(ORIGIN + timedelta(seconds=2)) == ORIGIN + timedelta(minutes=2)


def test_every_process_of_a_stack_has_the_same_fast_clock() -> None:
    settings = Settings(clock_speed=1000.0, clock_origin=datetime.now(UTC))
    first, second = clock_of(settings), clock_of(settings)
    assert abs(first.now() - second.now()) < timedelta(seconds=1000)
    moment = datetime.now(UTC)
    assert first.at(moment) == second.at(moment)


def test_time_is_the_machines_unless_asked_otherwise() -> None:
    clock = clock_of(Settings())
    assert isinstance(clock, SystemClock)
    assert clock.at(ORIGIN) == ORIGIN
    assert abs(clock.now() - datetime.now(UTC)) < timedelta(seconds=1)


def test_a_fast_clock_needs_to_know_when_it_began() -> None:
    with pytest.raises(ValueError, match="ECOLINK_CLOCK_ORIGIN"):
        clock_of(Settings(clock_speed=2.0))
