"""Amounts of money on pages."""

from __future__ import annotations

from domain.core.money import Toward
from gateway.schemas import Money
from gateway.web.amounts import exact_amount, written_amount, written_range


def test_a_rounded_amount_shows_the_exact_one() -> None:
    assert written_amount(Money.of(25_000_000)) == "$25.00"
    expected = '<data value="1.234567" title="$1.234567">$1.23</data>'
    assert written_amount(Money.of(1_234_567)) == expected
    assert "&lt;$0.01" in written_amount(Money.of(9_999))


def test_a_price_is_not_rounded() -> None:
    assert written_amount(Money.price(2_125_000)) == "$2.125"


def test_bounds_are_rounded_outwards() -> None:
    low, high = Money.of(95_500, Toward.DOWN), Money.of(230_001, Toward.UP)
    assert written_range(low, high) == "$0.09 – $0.24"
    assert written_range(Money.of(230_000), Money.of(230_000)) == "$0.23"
    assert written_range(Money.of(95, Toward.DOWN), Money.of(99, Toward.UP)) == "up to $0.01"


def test_only_an_amount_with_fractions_of_a_cent_has_more_decimals() -> None:
    amounts = [Money.of(1_000_000), Money.of(10_500), Money.of(-2_340)]
    assert list(map(exact_amount, amounts)) == ["$1.00", "$0.0105", "-$0.00234"]
