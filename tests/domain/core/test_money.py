"""Amounts are integers, charges are differences of one rounded total."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.core.errors import Invalid
from domain.core.money import (
    Toward,
    charge_micros,
    decimal_dollars,
    decimals_of,
    dollars,
    exact_dollars,
    micros_of,
    payment_micros_of,
    seconds_within,
)

rates = st.integers(0, 10**9)


@given(st.integers(1, 10**9), st.integers(0, 10**9))
def test_a_limit_pays_for_exactly_the_seconds_within_it(rate: int, limit_micros: int) -> None:
    seconds = seconds_within(limit_micros, rate)
    assert seconds is not None
    assert charge_micros(rate, seconds) <= limit_micros < charge_micros(rate, seconds + 1)


def test_a_limit_pays_for_any_number_of_free_seconds() -> None:
    assert seconds_within(0, 0) is None


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
    [
        (0, "$0.00"),
        (1, "<$0.01"),
        (9_999, "<$0.01"),
        (10_000, "$0.01"),
        (123_456, "$0.12"),
        (125_000, "$0.13"),
        (1_234_567_891, "$1,234.57"),
        (-1_234_567, "-$1.23"),
        (-1, "-<$0.01"),
    ],
)
def test_people_read_cents(micros: int, text: str) -> None:
    assert dollars(micros) == text


def test_bounds_are_rounded_to_their_side() -> None:
    assert dollars(230_001, Toward.UP) == "$0.24"
    assert dollars(239_999, Toward.DOWN) == "$0.23"
    assert dollars(1, Toward.UP) == "$0.01"
    assert dollars(-230_001, Toward.DOWN) == "-$0.24"
    assert dollars(-1, Toward.DOWN) == "-$0.01"
    assert dollars(1, Toward.DOWN) == "<$0.01"


@pytest.mark.parametrize(
    ("micros", "text"),
    [(0, "$0.00"), (1, "$0.000001"), (1_500_000, "$1.50"), (-20_000, "-$0.02")],
)
def test_exact_amounts(micros: int, text: str) -> None:
    assert exact_dollars(micros) == text


@given(st.lists(st.integers(-(10**12), 10**12), max_size=20))
def test_amounts_with_the_decimals_of_all_add_up_as_they_are_written(amounts: list[int]) -> None:
    decimals = decimals_of(amounts)
    written = [exact_dollars(each, decimals).replace("$", "").replace(",", "") for each in amounts]
    assert all(len(each.partition(".")[2]) == decimals for each in written)
    assert sum(map(Decimal, written)) * 1_000_000 == sum(amounts)


@pytest.mark.parametrize(
    ("text", "fix"), [("5.005", "5.01"), ("$0.001", "0.01"), ("2.999", "3.00")]
)
def test_a_payment_takes_whole_cents(text: str, fix: str) -> None:
    with pytest.raises(Invalid) as refusal:
        payment_micros_of(text, field="amount")
    assert refusal.value.field == "amount"
    assert fix in refusal.value.message
    assert payment_micros_of(fix, field="amount") % 10_000 == 0
    assert payment_micros_of("5.010", field="amount") == 5_010_000


@pytest.mark.parametrize(
    ("text", "micros"),
    [
        *[("25", 25_000_000), ("$0.000001", 1), (" 1.5 ", 1_500_000)],
        *[("1000000000", 10**15), ("007", 7_000_000), ("123456789.654321", 123_456_789_654_321)],
    ],
)
def test_amounts_are_read_exactly(text: str, micros: int) -> None:
    assert micros_of(text, field="amount") == micros


@pytest.mark.parametrize(
    "text",
    [
        *("", "ten", "NaN", "Infinity", "$", "1.", ".5", "+1"),
        *("1e20", "1e999999", "1e-999999", "1.2.3", "$$1", "1\n"),
        *("１２", "٣", "²", "1\x00", "\ud800"),  # noqa: RUF001
        *("0", "0.00", "-1", "$-1.50", "1000000000.01"),
        *("9999999999", "10000000000", "9" * 40, "0.0000001"),
        *("1,250", "$1,250.00", "1_000", "1'000'000"),
    ],
)
def test_an_invalid_amount_is_refused_with_its_field(text: str) -> None:
    with pytest.raises(Invalid) as refusal:
        micros_of(text, field="amount")
    assert refusal.value.field == "amount"


@given(st.one_of(st.text(max_size=20), st.from_regex(r"[0-9eE_.+-]{1,40}", fullmatch=True)))
def test_any_text_is_an_amount_or_refused(text: str) -> None:
    try:
        micros = micros_of(text, field="amount")
    except Invalid:
        return
    assert micros_of(decimal_dollars(micros), field="amount") == micros


@given(st.integers(1, 10**15))
def test_every_amount_is_read_as_it_is_written(micros: int) -> None:
    assert micros_of(decimal_dollars(micros), field="amount") == micros
