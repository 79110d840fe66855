"""Tables of the command line: one line per row, or one line per field."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from typing import Protocol

from pydantic import BaseModel
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from gateway.schemas import Money, job_name

GAP = 2
PROSE = frozenset({"name", "reason", "answer", "title", "failure", "origin"})
"""Columns whose text may wrap."""
LEAST_PROSE_CELLS = 14
"""Minimum width of a column of prose."""

STYLES = {
    "registered": "green",
    "active": "green",
    "ready_for_training": "green",
    "paused": "yellow",
    "validating": "yellow",
    "failed": "red",
    "rejected": "red",
    "cancelled": "red",
}
"""Colors of states."""

Row = Mapping[str, object]


class Failure(Protocol):
    """The reason of a failure, and what to do about it."""

    message: str
    advice: str


class MayFail(Protocol):
    """A schema with a failure."""

    @property
    def failure(self) -> Failure | None:
        """The failure, or None."""
        ...


def fields(shown: BaseModel) -> RenderableType:
    """Render one line per field of a schema, without empty fields."""
    return pairs({_title(name): value for name, value in shown})


def pairs(values: Row) -> RenderableType:
    """Render one line per name, without empty values."""
    table = Table(box=None, show_header=False, padding=(0, GAP, 0, 0), pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in values.items():
        if text := cell(value):
            text.justify = "left"
            table.add_row(name, text)
    return table


def listing(rows: Iterable[Row], empty: str = "") -> RenderableType:
    """Render rows as a table, or the text `empty`. The most important columns come first."""
    drawn = [{name: cell(value) for name, value in row.items()} for row in rows]
    return FittingTable(drawn) if drawn else Text(empty, style="dim")


def listing_of(models: Iterable[BaseModel], *names: str, empty: str = "") -> RenderableType:
    """Render some fields of schemas as a table, or the text `empty`."""
    return listing((selected(each, *names) for each in models), empty)


def selected(model: BaseModel, *names: str) -> dict[str, object]:
    """Return some fields of a schema by title. `job_id` becomes the name of the job."""
    shown: dict[str, object] = {}
    for name in names:
        value = getattr(model, name)
        if name == "job_id":
            shown["job"] = value and job_name(value)
        else:
            shown[_title(name)] = value
    return shown


def failure_of(answer: MayFail) -> dict[str, object]:
    """Return the reason of a failure and the advice by title, which are empty without a failure."""
    failure = answer.failure
    return {"failure": failure and failure.message, "advice": failure and failure.advice}


def cell(value: object) -> Text:
    """Return a value for display. Numbers and amounts are right-aligned."""
    match value:
        case None | []:
            return Text()
        case Text():
            return value
        case bool():
            return Text("yes" if value else "no")
        case Money():
            return number(value.text)
        case datetime():
            return Text(f"{value:%Y-%m-%d %H:%M:%S}")
        case date():
            return Text(value.isoformat())
        case int():
            return number(f"{value:,}")
        case BaseModel():
            known = {name: cell(each).plain for name, each in value}
            return Text(", ".join(f"{_title(name)} {text}" for name, text in known.items() if text))
        case list():
            return Text("; ".join(cell(each).plain for each in value))
        case _:
            return Text(tame(str(value)), style=STYLES.get(str(value), ""))


def number(text: str) -> Text:
    """Return the right-aligned text of a number."""
    return Text(text, justify="right")


def tame(text: str) -> str:
    """Return a text without terminal control characters."""
    return "".join(each for each in text if each in "\n\t" or each.isprintable())


def _title(name: str) -> str:
    return name.replace("_", " ")


class FittingTable:
    """A table that drops its last columns on a narrow terminal instead of cutting IDs."""

    def __init__(self, rows: Sequence[Mapping[str, Text]]) -> None:
        self._rows = rows

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the table with the columns that fit. The first column is always included."""
        columns = list(self._rows[0])
        while len(columns) > 1 and self._cells(columns) > options.max_width:
            columns.pop()
        table = Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False, header_style="bold")
        for name in columns:
            right = any(row[name].justify == "right" for row in self._rows)
            table.add_column(
                _title(name),
                justify="right" if right else "left",
                no_wrap=name not in PROSE,
                overflow="fold",
            )
        for row in self._rows:
            table.add_row(*(row[name] for name in columns))
        yield table

    def _cells(self, columns: Sequence[str]) -> int:
        return sum(map(self._width, columns)) + GAP * (len(columns) - 1)

    def _width(self, name: str) -> int:
        widest = max([cell_len(_title(name)), *(row[name].cell_len for row in self._rows)])
        return min(widest, LEAST_PROSE_CELLS) if name in PROSE else widest
