"""Options of the audit commands that name a period."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer
from pydantic import ValidationError

from domain.audit.invoice import Period

Month = Annotated[
    str | None,
    typer.Option("--period", metavar="MONTH", help="Calendar month in UTC, such as 2026-11."),
]
From = Annotated[
    str | None,
    typer.Option(
        "--from", metavar="TIME", help="Start: a date or a time, in UTC unless it has an offset."
    ),
]
Until = Annotated[
    str | None,
    typer.Option("--until", metavar="TIME", help="End, which is not part of the period."),
]


def moment_of(text: str, option: str) -> datetime:
    """Parse a date or a time. Raise ValueError if it is malformed."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            f"{option} is {text!r}. Enter a date or a time such as 2026-11-01 or 2026-11-01T12:00."
        ) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def period_between(start: datetime, end: datetime) -> Period:
    """Return a period. Raise ValueError if it does not end after its start."""
    try:
        return Period(start=start.astimezone(UTC), end=end.astimezone(UTC))
    except ValidationError:
        raise ValueError(
            f"The period ends at {end:%Y-%m-%d %H:%M}, not after its start "
            f"{start:%Y-%m-%d %H:%M}. Enter a later --until."
        ) from None
