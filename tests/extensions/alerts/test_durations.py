"""Durations in alert rules."""

from __future__ import annotations

from datetime import timedelta

import pytest

from extensions.alerts.domain.durations import parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"), [("0s", 0), ("30s", 30), ("1.5 min", 90), ("2h", 7200), ("1 d", 86400)]
)
def test_a_duration_has_a_number_and_a_unit(text: str, seconds: int) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "text", ["", "5", "5 minuts", "-5s", "5s ", "1h30min", 5, None, "9999999d"]
)
def test_anything_else_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)
