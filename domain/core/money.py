"""Money as integer micro-dollars; no float ever holds an amount."""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import StrEnum

from domain.core.errors import Invalid

MICROS_PER_DOLLAR = 1_000_000
CENT_MICROS = 10_000
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


class Toward(StrEnum):
    """The direction in which an amount is rounded to cents."""

    NEAREST = "nearest"
    UP = "up"
    DOWN = "down"


def in_cents(micros: int, toward: Toward = Toward.NEAREST) -> int:
    """An amount rounded to whole cents, in micro-dollars; half a cent is rounded away from zero."""
    match toward:
        case Toward.UP:
            return -(-micros // CENT_MICROS) * CENT_MICROS
        case Toward.DOWN:
            return micros // CENT_MICROS * CENT_MICROS
        case Toward.NEAREST:
            nearest = (abs(micros) + CENT_MICROS // 2) // CENT_MICROS * CENT_MICROS
            return nearest if micros >= 0 else -nearest


def dollars(micros: int, toward: Toward = Toward.NEAREST) -> str:
    """An amount for people, in cents: `$1,234.57`.

    The only place that rounds money for display. Less than a cent is `<$0.01`, unless it is
    rounded to a cent in a direction.
    """
    rounded = in_cents(micros, toward)
    if 0 < abs(micros) < CENT_MICROS and (toward is Toward.NEAREST or rounded == 0):
        return "<$0.01" if micros > 0 else "-<$0.01"
    return exact_dollars(rounded)


def exact_dollars(micros: int, decimals: int = 2) -> str:
    """An amount that is not rounded, such as a price or a posting, with at least `decimals`."""
    sign = "-" if micros < 0 else ""
    whole, fraction = divmod(abs(micros), MICROS_PER_DOLLAR)
    return f"{sign}${whole:,}.{f'{fraction:06d}'.rstrip('0').ljust(decimals, '0')}"


def decimals_of(amounts: Iterable[int]) -> int:
    """The fewest decimals, from 2, that show each of some amounts exactly, in micro-dollars.

    A table whose rows people add up shows all of its amounts with as many.
    """
    shown = (exact_dollars(micros).partition(".")[2] for micros in amounts)
    return max((len(fraction) for fraction in shown), default=2)


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


def payment_micros_of(text: str, *, field: str) -> int:
    """Parse a payment: a positive amount of dollars in whole cents; raises Invalid."""
    micros = micros_of(text, field=field)
    if micros % CENT_MICROS:
        nearest = decimal_dollars(in_cents(micros, Toward.UP))[:-4]
        raise Invalid(
            f"{text.strip()!r} has fractions of a cent. Enter whole cents, such as {nearest}.",
            field=field,
        )
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
