"""Money as integer micro-dollars; no float ever holds an amount."""

from __future__ import annotations

import re

from domain.errors import Invalid

MICROS_PER_DOLLAR = 1_000_000
SECONDS_PER_HOUR = 3600

MAX_MICROS = 10**15
OUT_OF_RANGE = "the amount must be above 0 and at most a billion dollars"


def charge_micros(rate_micros_per_hour: int, elapsed_seconds: int) -> int:
    """Cumulative charge of a segment after some seconds, micro-dollars, rounded half up.

    Charges of minutes are differences of this function, so that any number of them sums to the
    exact total: charge(k) = round(rate x elapsed_k) - round(rate x elapsed_k-1).
    """
    assert rate_micros_per_hour >= 0
    assert elapsed_seconds >= 0
    return (2 * rate_micros_per_hour * elapsed_seconds + SECONDS_PER_HOUR) // (2 * SECONDS_PER_HOUR)


def seconds_bought(amount_micros: int, rate_micros_per_hour: int) -> int | None:
    """How long an amount lasts at a rate, whole seconds; None at a rate of nothing."""
    if rate_micros_per_hour == 0:
        return None
    return amount_micros * SECONDS_PER_HOUR // rate_micros_per_hour


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
    """Parse a positive amount in dollars with up to six decimals; raises Invalid.

    The text is matched before it is read: what Decimal takes besides, such as exponents,
    underscores and digits of other scripts, is no amount that a person types.
    """
    amount = text.strip(" ")
    if not re.fullmatch(r"\$?[0-9]{1,10}(\.[0-9]{1,6})?", amount):
        raise Invalid(_why_no_amount(amount), field=field)
    whole, _, fraction = amount.removeprefix("$").partition(".")
    micros = int(whole) * MICROS_PER_DOLLAR + int(fraction.ljust(6, "0"))
    if not 0 < micros <= MAX_MICROS:
        raise Invalid(OUT_OF_RANGE, field=field)
    return micros


def _why_no_amount(amount: str) -> str:
    digits = amount.removeprefix("$")
    if re.fullmatch(r"[0-9]+\.[0-9]{7,}", digits):
        return f"{amount!r} has more than six decimals"
    if re.fullmatch(r"-\$?[0-9]+(\.[0-9]+)?|[0-9]{11,}(\.[0-9]+)?", digits):
        return OUT_OF_RANGE
    if re.fullmatch(r"[0-9]{1,3}([,_' ][0-9]{3})+(\.[0-9]*)?", digits):
        return f"{amount!r} has thousands separators; write it without, such as 1250.00"
    return f"{amount!r} is not an amount in dollars, such as 25.00"
