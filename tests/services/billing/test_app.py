"""The billing process: tick interval."""

from __future__ import annotations

import pytest

from infrastructure.settings import Settings
from services.billing.app import tick_seconds


@pytest.mark.parametrize(
    ("minute_seconds", "speed", "seconds"),
    [(60, 1.0, 1.0), (1, 1.0, 0.2), (60, 60.0, 0.2), (5, 10.0, 0.1), (60, 1e6, 0.05)],
)
def test_a_metered_minute_has_five_ticks(minute_seconds: int, speed: float, seconds: float) -> None:
    settings = Settings(meter_minute_seconds=minute_seconds, clock_speed=speed)
    assert tick_seconds(settings) == pytest.approx(seconds)
