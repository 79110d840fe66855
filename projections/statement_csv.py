"""CSV export of the ledger and the statements."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from itertools import chain
from typing import Any
from uuid import UUID

from domain.core.money import decimal_dollars
from projections.projection import Row
from projections.statements import DayOfStatement, JobOfStatement

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")
"""First characters that make a spreadsheet read a cell as a formula."""

LEDGER_COLUMNS = (
    *("position", "posted_at", "event_id", "debit", "credit", "amount", "amount_micros"),
    *("reason", "reference", "job_id", "segment", "minute", "from_seconds", "to_seconds"),
    "synthesis_id",
)
DAY_MOVEMENTS = ("opening", "top_ups", "refunds", "credits", "charges", "reversals", "closing")
JOB_NAMES = ("name", "dataset", "base_model")
JOB_MOVEMENTS = ("charges", "reversals", "net")


class _Echo:
    """A file object whose `write` returns the line, like the csv module's `writerow`."""

    def write(self, text: str) -> str:
        return text


def ledger_csv(postings: Iterable[Row]) -> Iterator[str]:
    """Yield the CSV lines of an account's postings. Amounts are in dollars and in micro-dollars."""
    return _lines(
        LEDGER_COLUMNS,
        (
            [
                Decimal(decimal_dollars(row["amount_micros"]))
                if column == "amount"
                else row[column]
                for column in LEDGER_COLUMNS
            ]
            for row in postings
        ),
    )


def daily_csv(days: Iterable[DayOfStatement]) -> Iterator[str]:
    """Yield the CSV lines of a daily statement."""
    return _lines(
        ("day", *_amount_columns(DAY_MOVEMENTS), "postings"),
        (
            [day.day.isoformat(), *_amounts(day, DAY_MOVEMENTS), _postings(day.event_ids)]
            for day in days
        ),
    )


def job_csv(
    jobs: Iterable[JobOfStatement], names: Mapping[UUID, tuple[str | None, ...]]
) -> Iterator[str]:
    """Yield the CSV lines of a statement by job.

    `names` has the values of `JOB_NAMES` by job ID.
    """
    unnamed = (None,) * len(JOB_NAMES)
    counts = ("segments", "minutes", "seconds", "reversed_seconds")
    return _lines(
        (
            *("job_id", *JOB_NAMES, *counts, *_amount_columns(JOB_MOVEMENTS)),
            *("postings", "synthesis_id"),
        ),
        (
            [
                None if job.synthesis else job.job_id,
                *names.get(job.job_id, unnamed),
                *(getattr(job, name) for name in counts),
                *_amounts(job, JOB_MOVEMENTS),
                _postings(job.event_ids),
                job.job_id if job.synthesis else None,
            ]
            for job in jobs
        ),
    )


def _amount_columns(movements: Sequence[str]) -> list[str]:
    return [column for name in movements for column in (name, f"{name}_micros")]


def _amounts(
    row: DayOfStatement | JobOfStatement, movements: Sequence[str]
) -> Iterator[Decimal | int]:
    for name in movements:
        micros: int = getattr(row, f"{name}_micros")
        yield Decimal(decimal_dollars(micros))
        yield micros


def _postings(event_ids: dict[str, list[str]]) -> str:
    return " ".join(event_id for ids in event_ids.values() for event_id in ids)


def _lines(header: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    writer: Any = csv.writer(_Echo())
    for cells in chain([header], rows):
        yield writer.writerow([_cell(each) for each in cells])


def _cell(value: Any) -> Any:
    """Return the cell for a value. An apostrophe escapes formulas."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, str) and value.lstrip(" ").startswith(FORMULA_STARTS):
        return f"'{value}"
    return value
