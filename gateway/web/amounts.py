"""Amounts of money on pages. `domain.core.money` rounds them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from markupsafe import Markup

from domain.core.money import CENT_MICROS, decimal_dollars, decimals_of, exact_dollars
from gateway.schemas import Answer, Money


def written_amount(amount: Money) -> Markup:
    """Return an amount, such as `$1,234.57`. On hover, a rounded amount shows the exact one."""
    exact = exact_dollars(amount.micros)
    if amount.text == exact:
        return Markup("{}").format(exact)
    return Markup('<data value="{}" title="{}">{}</data>').format(
        decimal_dollars(amount.micros), exact, amount.text
    )


def exact_amount(amount: Money, decimals: int = 2) -> str:
    """Return an exact amount with the number of decimals that its table uses."""
    return exact_dollars(amount.micros, decimals)


def decimals_in(rows: Iterable[Answer]) -> int:
    """Return the number of decimals that shows all amounts exactly. A row may be an amount."""
    return decimals_of(amount.micros for row in rows for amount in _amounts_of(row))


def _amounts_of(row: Answer) -> Iterator[Money]:
    if isinstance(row, Money):
        yield row
    else:
        yield from (value for _, value in row if isinstance(value, Money))


def written_range(low: Money, high: Money) -> str:
    """Return a range. The caller must round both bounds outwards."""
    if low.micros < CENT_MICROS:
        return f"up to {high.text}"
    return low.text if low.text == high.text else f"{low.text} – {high.text}"
