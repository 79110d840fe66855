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
OUT_OF_RANGE = "The amount is out of range. Enter an amount above 0, up to one billion dollars."


def charge_micros(rate_micros_per_hour: int, elapsed_seconds: int) -> int:
    """Return the cumulative charge of a segment in micro-dollars, rounded half up.

    The charge for minute k is the difference of two cumulative charges: charge(k) = round(rate x
    elapsed_k) - round(rate x elapsed_k-1). The charges of all minutes therefore add up to the exact
    total.
    """
    assert rate_micros_per_hour >= 0
    assert elapsed_seconds >= 0
    return (2 * rate_micros_per_hour * elapsed_seconds + SECONDS_PER_HOUR) // (2 * SECONDS_PER_HOUR)


def charge_within(rate_micros_per_hour: int, elapsed_seconds: int, limit_micros: int | None) -> int:
    """Return the cumulative charge of a segment that ends with the last whole second in a limit."""
    paid = None if limit_micros is None else seconds_within(limit_micros, rate_micros_per_hour)
    seconds = elapsed_seconds if paid is None else min(elapsed_seconds, paid)
    return charge_micros(rate_micros_per_hour, seconds)


def price_micros(rate_micros_per_hour: int, seconds: int) -> int:
    """Return the highest charge for some seconds of a segment, whose minutes may be rounded up."""
    return -(-rate_micros_per_hour * seconds // SECONDS_PER_HOUR)


def seconds_bought(amount_micros: int, rate_micros_per_hour: int) -> int | None:
    """Return the number of whole seconds that an amount pays for; None if the rate is 0."""
    if rate_micros_per_hour == 0:
        return None
    return amount_micros * SECONDS_PER_HOUR // rate_micros_per_hour


def seconds_within(limit_micros: int, rate_micros_per_hour: int) -> int | None:
    """Return the whole seconds whose rounded charge is within a limit; None if the rate is 0."""
    if rate_micros_per_hour == 0:
        return None
    rounded = 2 * SECONDS_PER_HOUR * limit_micros + SECONDS_PER_HOUR - 1
    return max(0, rounded // (2 * rate_micros_per_hour))


class Toward(StrEnum):
    """Direction in which an amount is rounded to cents."""

    NEAREST = "nearest"
    UP = "up"
    DOWN = "down"


def in_cents(micros: int, toward: Toward = Toward.NEAREST) -> int:
    """Return micro-dollars rounded to whole cents. By default, round half a cent away from zero."""
    match toward:
        case Toward.UP:
            return -(-micros // CENT_MICROS) * CENT_MICROS
        case Toward.DOWN:
            return micros // CENT_MICROS * CENT_MICROS
        case Toward.NEAREST:
            nearest = (abs(micros) + CENT_MICROS // 2) // CENT_MICROS * CENT_MICROS
            return nearest if micros >= 0 else -nearest


def dollars(micros: int, toward: Toward = Toward.NEAREST) -> str:
    """Return an amount for display, in dollars and cents, such as `$1,234.57`.

    Only this function rounds money for display. It shows amounts below a cent as `<$0.01`, unless
    `toward` rounds them up or down to a cent.
    """
    rounded = in_cents(micros, toward)
    if 0 < abs(micros) < CENT_MICROS and (toward is Toward.NEAREST or rounded == 0):
        return "<$0.01" if micros > 0 else "-<$0.01"
    return exact_dollars(rounded)


def exact_dollars(micros: int, decimals: int = 2) -> str:
    """Return an amount in dollars without rounding, with at least `decimals` decimals."""
    sign = "-" if micros < 0 else ""
    whole, fraction = divmod(abs(micros), MICROS_PER_DOLLAR)
    return f"{sign}${whole:,}.{f'{fraction:06d}'.rstrip('0').ljust(decimals, '0')}"


def decimals_of(amounts: Iterable[int]) -> int:
    """Return the fewest decimals, at least 2, with which a table shows all amounts exactly."""
    shown = (exact_dollars(micros).partition(".")[2] for micros in amounts)
    return max((len(fraction) for fraction in shown), default=2)


def decimal_dollars(micros: int) -> str:
    """Return an amount in dollars for machines, always with six decimals, such as `-1.234567`."""
    sign = "-" if micros < 0 else ""
    whole, fraction = divmod(abs(micros), MICROS_PER_DOLLAR)
    return f"{sign}{whole}.{fraction:06d}"


def micros_of(text: str, *, field: str) -> int:
    """Return the micro-dollars of a positive decimal with up to six decimals, or raise Invalid."""
    amount = text.strip(" ")
    if not re.fullmatch(r"\$?[0-9]{1,10}(\.[0-9]{1,6})?", amount):
        raise Invalid(_amount_problem(amount), field=field)
    whole, _, fraction = amount.removeprefix("$").partition(".")
    micros = int(whole) * MICROS_PER_DOLLAR + int(fraction.ljust(6, "0"))
    if not 0 < micros <= MAX_MICROS:
        raise Invalid(OUT_OF_RANGE, field=field)
    return micros


def payment_micros_of(text: str, *, field: str) -> int:
    """Return the micro-dollars of a payment. Raise Invalid unless it is a number of whole cents."""
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
        return f"{amount!r} has more than six decimal places. Enter at most six."
    if re.fullmatch(r"-\$?[0-9]+(\.[0-9]+)?|[0-9]{11,}(\.[0-9]+)?", digits):
        return OUT_OF_RANGE
    if re.fullmatch(r"[0-9]{1,3}([,_' ][0-9]{3})+(\.[0-9]*)?", digits):
        return f"{amount!r} has thousands separators. Remove them, as in 1250.00."
    return f"{amount!r} is not an amount in dollars. Enter an amount such as 25.00."
