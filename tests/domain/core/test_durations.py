"""Durations in words."""

from __future__ import annotations

import pytest

from domain.core.durations import spoken


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (89.4, "89 s"),
        (90, "1 min 30 s"),
        (120, "2 min"),
        (601, "10 min"),
        (3599, "1 h"),
        (3900, "1 h 5 min"),
        (47.9 * 3600, "47 h 54 min"),
        (50 * 3600, "2 d 2 h"),
        (48 * 3600, "2 d"),
    ],
)
def test_a_duration_is_said_in_its_two_largest_units(seconds: float, words: str) -> None:
    assert spoken(seconds) == words
