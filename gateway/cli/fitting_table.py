"""A table that leaves out what a narrow terminal has no room for, rather than cut ids in two."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

GAP = 2
FOLDED_CELLS = 14
"""What a column of prose needs at least; its text goes on in the next line."""


class FittingTable:
    """Rows of texts by column; the columns come in order of importance, the least one last."""

    def __init__(
        self,
        columns: Sequence[str],
        rows: Sequence[Mapping[str, Text]],
        *,
        numbers: Collection[str] = (),
        prose: Collection[str] = (),
    ) -> None:
        self._columns = columns
        self._rows = rows
        self._numbers = numbers
        self._prose = prose

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """As many of the columns as there is room for, the first one always."""
        columns = list(self._columns)
        while len(columns) > 1 and self._cells(columns) > options.max_width:
            columns.pop()
        table = Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False, header_style="bold")
        for name in columns:
            table.add_column(
                _title(name),
                justify="right" if name in self._numbers else "left",
                no_wrap=name not in self._prose,
                overflow="fold",
            )
        for row in self._rows:
            table.add_row(*(row[name] for name in columns))
        yield table

    def _cells(self, columns: Sequence[str]) -> int:
        """Width that these columns need."""
        return sum(map(self._width, columns)) + GAP * (len(columns) - 1)

    def _width(self, name: str) -> int:
        widest = max([cell_len(_title(name)), *(row[name].cell_len for row in self._rows)])
        return min(widest, FOLDED_CELLS) if name in self._prose else widest


def _title(name: str) -> str:
    return name.replace("_", " ")
