"""Amounts are integers, charges are differences of one rounded total."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.errors import Invalid
from domain.money import charge_micros, dollars, micros_of

rates = st.integers(0, 10**9)


@given(rates, st.lists(st.integers(0, 10_000), max_size=50))
def test_any_number_of_charges_sums_to_the_exact_total(rate: int, stretches: list[int]) -> None:
    elapsed, charged = 0, 0
    for seconds in stretches:
        charged += charge_micros(rate, elapsed + seconds) - charge_micros(rate, elapsed)
        elapsed += seconds
    assert charged == charge_micros(rate, elapsed)


@given(rates, st.integers(0, 10**6))
def test_a_charge_is_the_product_rounded_half_up(rate: int, seconds: int) -> None:
    whole, rest = divmod(rate * seconds, 3600)
    assert charge_micros(rate, seconds) == whole + (rest * 2 >= 3600)


@pytest.mark.parametrize(
    ("micros", "text"),
    [(0, "$0.00"), (1, "$0.000001"), (1_500_000, "$1.50"), (-20_000, "-$0.02")],
)
def test_dollars(micros: int, text: str) -> None:
    assert dollars(micros) == text


@pytest.mark.parametrize(
    ("text", "micros"), [("25", 25_000_000), ("$0.000001", 1), (" 1.5 ", 1_500_000)]
)
def test_amounts_are_read_exactly(text: str, micros: int) -> None:
    assert micros_of(text, field="amount") == micros


@pytest.mark.parametrize("text", ["", "ten", "0", "-1", "NaN", "Infinity", "0.0000001", "1e20"])
def test_what_is_no_amount_is_refused_with_its_field(text: str) -> None:
    with pytest.raises(Invalid) as refusal:
        micros_of(text, field="amount")
    assert refusal.value.field == "amount"
