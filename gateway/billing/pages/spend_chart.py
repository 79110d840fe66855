"""The spend chart: bars of what each day charged, drawn by the server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gateway.billing.api.statements import StatementDay
from gateway.schemas import Money

HEIGHT, STEP, GAP, LEAST = 100.0, 10.0, 2.0, 1.0
"""Of the drawing, in its own units; a day that charged anything is seen."""


@dataclass(frozen=True)
class Bar:
    """One day's bar."""

    x: float
    y: float
    height: float
    title: str


@dataclass(frozen=True)
class SpendChart:
    """Bars over a line; the drawing is stretched to the width that there is."""

    width: float
    bars: tuple[Bar, ...]
    most: Money
    """Of one day."""
    bar_width: float = STEP - GAP
    height: float = HEIGHT


def spend_chart(days: Sequence[StatementDay]) -> SpendChart | None:
    """The chart of some days in order; None if none of them charged anything."""
    most = max(day.charges.micros for day in days)
    if most == 0:
        return None
    bars = []
    for number, day in enumerate(days):
        if charged := day.charges.micros:
            height = max(LEAST, HEIGHT * charged / most)
            x = number * STEP + GAP / 2
            title = f"{day.day:%b %-d}: {day.charges.text}"
            bars.append(Bar(x, round(HEIGHT - height, 2), round(height, 2), title))
    return SpendChart(len(days) * STEP, tuple(bars), Money.of(most))
