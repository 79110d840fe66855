"""Counts and speeds as text."""

from __future__ import annotations

import pytest

from domain.core.quantities import counted, written_speed


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 jobs"), (1, "1 job"), (2, "2 jobs"), (1200, "1,200 jobs")]
)
def test_one_has_no_plural(count: int, text: str) -> None:
    assert counted(count, "job") == text


@pytest.mark.parametrize(
    ("speed", "text"),
    [(0, "0"), (0.0412, "0.041"), (9.44, "9.4"), (9.5, "10"), (905.4, "905"), (12_345.6, "12,346")],
)
def test_a_slow_speed_is_not_zero(speed: float, text: str) -> None:
    assert written_speed(speed) == text
