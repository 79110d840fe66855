"""The spend chart, an SVG bar chart of the charges per day."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gateway.billing.schemas import StatementDay
from gateway.schemas import Money

HEIGHT, STEP, GAP, LEAST = 100.0, 10.0, 2.0, 1.0
"""Sizes in SVG units. The bar of a day with charges is at least LEAST high."""


@dataclass(frozen=True)
class Bar:
    x: float
    y: float
    height: float
    title: str


@dataclass(frozen=True)
class SpendChart:
    """A chart that stretches to the available width."""

    width: float
    bars: tuple[Bar, ...]
    most: Money
    """Charges of the most expensive day."""
    bar_width: float = STEP - GAP
    height: float = HEIGHT


def spend_chart(days: Sequence[StatementDay]) -> SpendChart | None:
    """Return the chart of days in chronological order, or None if they have no charges."""
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
