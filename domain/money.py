"""Money as integer micro-dollars; no float ever holds an amount."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation

from domain.errors import Invalid

MICROS_PER_DOLLAR = 1_000_000
SECONDS_PER_HOUR = 3600


def charge_micros(rate_micros_per_hour: int, elapsed_seconds: int) -> int:
    """Cumulative charge of a segment after some seconds, micro-dollars, rounded half up.

    Charges of minutes are differences of this function, so that any number of them sums to the
    exact total: charge(k) = round(rate x elapsed_k) - round(rate x elapsed_k-1).
    """
    assert rate_micros_per_hour >= 0
    assert elapsed_seconds >= 0
    return (2 * rate_micros_per_hour * elapsed_seconds + SECONDS_PER_HOUR) // (2 * SECONDS_PER_HOUR)


def dollars(micros: int) -> str:
    """An amount for people: `$1.234567` with no fewer than two decimals."""
    sign = "-" if micros < 0 else ""
    whole, fraction = divmod(abs(micros), MICROS_PER_DOLLAR)
    decimals = f"{fraction:06d}".rstrip("0").ljust(2, "0")
    return f"{sign}${whole:,}.{decimals}"


def decimal_dollars(micros: int) -> str:
    """An amount for programs: `-1.234567`, always with six decimals."""
    sign = "-" if micros < 0 else ""
    whole, fraction = divmod(abs(micros), MICROS_PER_DOLLAR)
    return f"{sign}{whole}.{fraction:06d}"


def micros_of(text: str, *, field: str) -> int:
    """Parse a positive amount in dollars with up to six decimals; raises Invalid."""
    try:
        micros = Decimal(text.strip().removeprefix("$")) * MICROS_PER_DOLLAR
    except InvalidOperation:
        raise Invalid(f"{text!r} is not an amount in dollars, such as 25.00", field=field) from None
    if not micros.is_finite() or micros != micros.to_integral_value():
        raise Invalid(f"{text!r} has more than six decimals", field=field)
    if not 0 < micros <= 10**15:
        raise Invalid("the amount must be above 0 and at most a billion dollars", field=field)
    return int(micros)
