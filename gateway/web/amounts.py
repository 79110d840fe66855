"""Amounts of money as the pages write them: cents, or finer where cents would say nothing."""

from __future__ import annotations

from enum import StrEnum

from markupsafe import Markup

from domain.money import MICROS_PER_DOLLAR, decimal_dollars, dollars
from gateway.answers import Money

CENT_MICROS = 10_000
FINE_MICROS = 100
"""A hundredth of a cent, the unit of amounts below `FINE_BELOW_MICROS`."""
FINE_BELOW_MICROS = 100_000


class Toward(StrEnum):
    """Which way an amount is rounded that is finer than its unit."""

    NEAREST = "nearest"
    UP = "up"
    DOWN = "down"
    PAYABLE = "payable"
    """Up to a whole cent: what one can pay."""


def written_amount(amount: Money, toward: str = Toward.NEAREST) -> Markup:
    """An amount for people, such as `$1,234.57`; where it was rounded, with the exact one."""
    text = amount_text(amount, toward)
    exact = dollars(amount.micros)
    if text == exact:
        return Markup("{}").format(text)
    return Markup('<data value="{}" title="{}">{}</data>').format(
        decimal_dollars(amount.micros), exact, text
    )


def amount_text(amount: Money, toward: str = Toward.NEAREST) -> str:
    """The same where no element may be, as in an option."""
    return rounded(amount.micros, Toward(toward))


def written_range(low: Money, high: Money) -> str:
    """From a lower to an upper bound, rounded outwards in one unit, so that they never cross."""
    least = rounded(low.micros, Toward.DOWN, high.micros)
    most = rounded(high.micros, Toward.UP)
    return least if least == most else f"{least} – {most}"


def rounded(micros: int, toward: Toward = Toward.NEAREST, scale: int | None = None) -> str:
    """Micro-dollars in cents from ten cents up, below in hundredths of a cent; zero is `$0.00`.

    The unit is that of `scale` if another amount sets it. What is not nothing is not written as
    nothing, unless it is rounded down.
    """
    fine = abs(micros if scale is None else scale) < FINE_BELOW_MICROS
    unit = FINE_MICROS if fine and toward is not Toward.PAYABLE else CENT_MICROS
    match toward:
        case Toward.NEAREST:
            units = (2 * abs(micros) + unit) // (2 * unit) or (1 if micros else 0)
            units = units if micros >= 0 else -units
        case Toward.DOWN:
            units = micros // unit
        case _:
            units = -(-micros // unit)
    whole, rest = divmod(abs(units) * unit, MICROS_PER_DOLLAR)
    sign = "-" if units < 0 else ""
    if rest % CENT_MICROS == 0:
        return f"{sign}${whole:,}.{rest // CENT_MICROS:02d}"
    return f"{sign}${whole:,}.{rest // FINE_MICROS:04d}"
