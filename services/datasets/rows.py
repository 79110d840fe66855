"""Rows of an upload, which readers yield for every format."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from services.datasets.report import Refused


@dataclass(slots=True)
class Row:
    """A row of an upload.

    It has the JSON `text` of an example, or the `value` of a table's row by column, or the reason
    why it cannot be read. A blank row has none of them.
    """

    text: bytes | None = None
    value: dict[str, Any] | None = None
    error: Refused | None = None
    number: int | None = None
    """Number of the row, from 1, if rows are not numbered one by one."""


@dataclass
class Table:
    """The rows of an upload, their unit, and what the report calls its format.

    `names` are the columns of the rows, if the format has a fixed list of them. A row of a
    `positional` table has no names of its own.
    """

    format: str
    unit: str
    rows: Iterator[Row]
    names: tuple[str, ...] = ()
    positional: bool = False


LINE, ROW = "line", "row"
