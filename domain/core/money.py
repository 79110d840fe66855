"""Money as integer micro-dollars. Amounts are never floats."""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import StrEnum

from domain.core.errors import Invalid

MICROS_PER_DOLLAR = 1_000_000
CENT_MICROS = 10_000
SECONDS_PER_HOUR = 3600

MAX_MICROS = 10**15
OUT_OF_RANGE = "Enter an amount above 0 and of at most a billion dollars."


def charge_micros(rate_micros_per_hour: int, elapsed_seconds: int) -> int:
    """Return the cumulative charge of a segment in micro-dollars, rounded half up.

    The charge for minute k is the difference of two cumulative charges, so that the minutes add up
    to the exact total: charge(k) = round(rate x elapsed_k) - round(rate x elapsed_k-1).
    """
    assert rate_micros_per_hour >= 0
    assert elapsed_seconds >= 0
    return (2 * rate_micros_per_hour * elapsed_seconds + SECONDS_PER_HOUR) // (2 * SECONDS_PER_HOUR)


def seconds_bought(amount_micros: int, rate_micros_per_hour: int) -> int | None:
    """Return the whole seconds that an amount pays for at a rate; None at a rate of 0."""
    if rate_micros_per_hour == 0:
        return None
    return amount_micros * SECONDS_PER_HOUR // rate_micros_per_hour


class Toward(StrEnum):
    """Rounding direction when an amount is rounded to cents."""

    NEAREST = "nearest"
    UP = "up"
    DOWN = "down"


def in_cents(micros: int, toward: Toward = Toward.NEAREST) -> int:
    """Round micro-dollars to whole cents. By default, half a cent is rounded away from zero."""
    match toward:
        case Toward.UP:
            return -(-micros // CENT_MICROS) * CENT_MICROS
        case Toward.DOWN:
            return micros // CENT_MICROS * CENT_MICROS
        case Toward.NEAREST:
            nearest = (abs(micros) + CENT_MICROS // 2) // CENT_MICROS * CENT_MICROS
            return nearest if micros >= 0 else -nearest


def dollars(micros: int, toward: Toward = Toward.NEAREST) -> str:
    """Return an amount for display, in cents, such as `$1,234.57`.

    Only this function rounds money for display. Amounts below a cent are shown as `<$0.01`, unless
    the direction rounds them up or down to a cent.
    """
    rounded = in_cents(micros, toward)
    if 0 < abs(micros) < CENT_MICROS and (toward is Toward.NEAREST or rounded == 0):
        return "<$0.01" if micros > 0 else "-<$0.01"
    return exact_dollars(rounded)


def exact_dollars(micros: int, decimals: int = 2) -> str:
    """Return an amount without rounding, with at least `decimals` decimals."""
    sign = "-" if micros < 0 else ""
    whole, fraction = divmod(abs(micros), MICROS_PER_DOLLAR)
    return f"{sign}${whole:,}.{f'{fraction:06d}'.rstrip('0').ljust(decimals, '0')}"


def decimals_of(amounts: Iterable[int]) -> int:
    """Return the smallest number of decimals, at least 2, that shows all amounts exactly.

    A table shows all its amounts with this many decimals, so that the column adds up.
    """
    shown = (exact_dollars(micros).partition(".")[2] for micros in amounts)
    return max((len(fraction) for fraction in shown), default=2)


def decimal_dollars(micros: int) -> str:
    """Return an amount in machine-readable form, always with six decimals, such as `-1.234567`."""
    sign = "-" if micros < 0 else ""
    whole, fraction = divmod(abs(micros), MICROS_PER_DOLLAR)
    return f"{sign}{whole}.{fraction:06d}"


def micros_of(text: str, *, field: str) -> int:
    """Parse a positive amount in dollars with up to six decimals. Raise Invalid if it is malformed.

    Unlike Decimal, this function refuses exponents, underscores and non-ASCII digits.
    """
    amount = text.strip(" ")
    if not re.fullmatch(r"\$?[0-9]{1,10}(\.[0-9]{1,6})?", amount):
        raise Invalid(_amount_problem(amount), field=field)
    whole, _, fraction = amount.removeprefix("$").partition(".")
    micros = int(whole) * MICROS_PER_DOLLAR + int(fraction.ljust(6, "0"))
    if not 0 < micros <= MAX_MICROS:
        raise Invalid(OUT_OF_RANGE, field=field)
    return micros


def payment_micros_of(text: str, *, field: str) -> int:
    """Parse a payment, which is a positive amount in whole cents. Raise Invalid if it is not."""
    micros = micros_of(text, field=field)
    if micros % CENT_MICROS:
        nearest = decimal_dollars(in_cents(micros, Toward.UP))[:-4]
        raise Invalid(
            f"{text.strip()!r} has fractions of a cent. Enter whole cents, such as {nearest}.",
            field=field,
        )
    return micros


def _amount_problem(amount: str) -> str:
    digits = amount.removeprefix("$")
    if re.fullmatch(r"[0-9]+\.[0-9]{7,}", digits):
        return f"{amount!r} has more than six decimals. Enter at most six."
    if re.fullmatch(r"-\$?[0-9]+(\.[0-9]+)?|[0-9]{11,}(\.[0-9]+)?", digits):
        return OUT_OF_RANGE
    if re.fullmatch(r"[0-9]{1,3}([,_' ][0-9]{3})+(\.[0-9]*)?", digits):
        return f"{amount!r} has thousands separators. Enter it without them, such as 1250.00."
    return f"{amount!r} is not an amount in dollars. Enter an amount such as 25.00."
