"""Options of the audit commands that name a period."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer
from pydantic import ValidationError

from deploy.operator.replay import moment_of
from extensions.invoices.domain.invoice import Period

Month = Annotated[
    str | None,
    typer.Option("--period", metavar="MONTH", help="Calendar month in UTC, such as 2026-11."),
]
From = Annotated[
    datetime | None,
    typer.Option(
        "--from",
        parser=moment_of,
        metavar="TIME",
        help="Start: a time with a time zone, or a UTC date.",
    ),
]
Until = Annotated[
    datetime | None,
    typer.Option(
        "--until", parser=moment_of, metavar="TIME", help="End, which is not part of the period."
    ),
]


def period_between(start: datetime, end: datetime) -> Period:
    """Return a period. Raise ValueError if it does not end after its start."""
    try:
        return Period(start=start, end=end)
    except ValidationError:
        raise ValueError(
            f"The period ends at {end:%Y-%m-%d %H:%M}, not after its start "
            f"{start:%Y-%m-%d %H:%M}. Enter a later --until."
        ) from None
