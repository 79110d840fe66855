"""How pages write amounts of money."""

from __future__ import annotations

import pytest

from gateway.answers import Money
from gateway.web.amounts import amount_text, written_amount, written_range


@pytest.mark.parametrize(
    ("micros", "text"),
    [
        (0, "$0.00"),
        (1, "$0.0001"),
        (12_345, "$0.0123"),
        (50_000, "$0.05"),
        (99_999, "$0.10"),
        (123_456, "$0.12"),
        (125_000, "$0.13"),
        (1_234_567_891, "$1,234.57"),
        (-1_234_567, "-$1.23"),
    ],
)
def test_cents_are_enough_but_for_small_amounts(micros: int, text: str) -> None:
    assert amount_text(Money.of(micros)) == text


def test_bounds_are_rounded_outwards() -> None:
    assert amount_text(Money.of(230_001), "up") == "$0.24"
    assert amount_text(Money.of(239_999), "down") == "$0.23"
    assert amount_text(Money.of(-1), "down") == "-$0.0001"
    assert amount_text(Money.of(1), "payable") == "$0.01"
    assert written_range(Money.of(95_500), Money.of(230_001)) == "$0.09 – $0.24"
    assert written_range(Money.of(230_000), Money.of(230_000)) == "$0.23"
    assert written_range(Money.of(12_345), Money.of(12_346)) == "$0.0123 – $0.0124"


def test_what_was_rounded_says_the_exact_amount() -> None:
    assert written_amount(Money.of(25_000_000)) == "$25.00"
    expected = '<data value="1.234567" title="$1.234567">$1.23</data>'
    assert written_amount(Money.of(1_234_567)) == expected
