"""Amounts of money on pages. `domain.core.money` rounds them."""

from __future__ import annotations

from markupsafe import Markup

from domain.core.money import CENT_MICROS, decimal_dollars, exact_dollars
from gateway.schemas import Money


def written_amount(amount: Money) -> Markup:
    """Return an amount, such as `$1,234.57`. On hover, a rounded amount shows the exact one."""
    exact = exact_dollars(amount.micros)
    if amount.text == exact:
        return Markup("{}").format(exact)
    return Markup('<data value="{}" title="{}">{}</data>').format(
        decimal_dollars(amount.micros), exact, amount.text
    )


def exact_amount(amount: Money) -> str:
    """Return an exact amount, with more than two decimals only if it has fractions of a cent."""
    return exact_dollars(amount.micros)


def written_range(low: Money, high: Money) -> str:
    """Return a range. The caller must round both bounds outwards."""
    if low.micros < CENT_MICROS:
        return f"up to {high.text}"
    return low.text if low.text == high.text else f"{low.text} – {high.text}"
