"""Reader of tables in text: CSV, TSV and similar files, through Python's csv module."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from infrastructure.datasets.chat_columns import KNOWN_NAMES, plain_name
from services.datasets.ndjson import in_words, split_lines
from services.datasets.report import Code, Refused
from services.datasets.rows import Row

DELIMITERS = {",": "comma", "\t": "tab", ";": "semicolon", "|": "vertical bar"}
MAX_COLUMNS = 1_000
SAMPLED_RECORDS = 50
MAX_NAME = 64
BYTE_ORDER_MARK = "\ufeff"


@dataclass(frozen=True)
class Dialect:
    """Format of a table. Without a header, its columns are `column 1`, `column 2`, etc."""

    delimiter: str
    header: bool
    names: tuple[str, ...]

    @property
    def format(self) -> str:
        """Name of the format for the report."""
        kind = "TSV" if self.delimiter == "\t" else "CSV"
        other = "" if self.delimiter in ",\t" else f" with {DELIMITERS[self.delimiter]}s"
        return f"{kind}{other}{'' if self.header else ' without a header'}"


def dialect_of(head: str, *, is_whole: bool) -> Dialect | None:
    """Return the dialect of a table, by its first complete records; None if this is no table."""
    best: tuple[float, int, Dialect] | None = None
    for delimiter in DELIMITERS:
        records = _records(head, delimiter, is_whole=is_whole)
        if not records or len(records[0]) < 2:
            continue
        width = len(records[0])
        if width > MAX_COLUMNS:
            continue
        same = sum(len(record) == width for record in records) / len(records)
        dialect = _dialect(records, delimiter)
        needed = 0.5 if dialect.header else 1.0
        if same < needed or (len(records) < 2 and not dialect.header):
            continue
        if best is None or (same, width) > best[:2]:
            best = same, width, dialect
    return None if best is None else best[2]


def _records(head: str, delimiter: str, *, is_whole: bool) -> list[list[str]]:
    reader = csv.reader(io.StringIO(head, newline=""), delimiter=delimiter, strict=False)
    records: list[list[str]] = []
    try:
        for record in reader:
            if record:
                records.append(record)
            if len(records) == SAMPLED_RECORDS:
                return records
    except csv.Error:
        pass
    return records if is_whole else records[:-1]


def _dialect(records: list[list[str]], delimiter: str) -> Dialect:
    first, others = records[0], records[1:]
    names = [name.strip() for name in first]
    header = (
        len(set(names)) == len(names)
        and all(_is_name(name) for name in names)
        and (
            any(plain_name(name) in KNOWN_NAMES for name in names)
            or not others
            or not all(all(_is_name(cell.strip()) for cell in record) for record in others)
        )
    )
    if not header:
        names = [f"column {number}" for number in range(1, len(first) + 1)]
    return Dialect(delimiter, header, tuple(names))


def _is_name(name: str) -> bool:
    return 0 < len(name) <= MAX_NAME and all(char.isalnum() or char in " _-./" for char in name)


class _Lines:
    """The lines of a table as text. A row may need several of them."""

    def __init__(self, chunks: Iterable[bytes], max_row_bytes: int) -> None:
        self._lines = split_lines(chunks, max_row_bytes)
        self._max_row_bytes = max_row_bytes
        self._first = True
        self.row_bytes = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        content, size = next(self._lines)
        self.row_bytes += size
        if self.row_bytes > self._max_row_bytes:
            raise Refused(
                Code.LINE_TOO_LONG,
                f"The row has more than {in_words(self._max_row_bytes)}. Shorten it. If it is "
                "short, a quote in an earlier cell has no closing quote.",
            )
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError as error:
            raise Refused(
                Code.BAD_UTF8,
                f"The row is not valid UTF-8 (byte 0x{content[error.start]:02x}). Save the file as "
                "UTF-8.",
            ) from None
        if self._first:
            text, self._first = text.removeprefix(BYTE_ORDER_MARK), False
        return text + "\n"


def table_rows(chunks: Iterable[bytes], dialect: Dialect, max_row_bytes: int) -> Iterator[Row]:
    """Yield the rows of a table below its header, with their cells by column."""
    csv.field_size_limit(max_row_bytes)
    lines = _Lines(chunks, max_row_bytes)
    reader = csv.reader(lines, delimiter=dialect.delimiter, strict=True)
    names, waits = dialect.names, dialect.header
    while True:
        lines.row_bytes = 0
        try:
            cells = next(reader)
        except StopIteration:
            return
        except Refused as error:
            yield Row(error=error)
            continue
        except csv.Error as error:
            yield Row(error=_malformed(error))
            continue
        if waits:
            waits = not cells
        elif not cells:
            yield Row()
        elif len(cells) != len(names):
            yield Row(error=_uneven(cells, names))
        else:
            yield Row(value=dict(zip(names, cells, strict=True)))


def _malformed(error: csv.Error) -> Refused:
    return Refused(
        Code.MALFORMED_TABLE,
        f"The row is malformed: {error}. Put quotes around a cell with quotes, and double the "
        "quotes inside it.",
    )


def _uneven(cells: list[str], names: tuple[str, ...]) -> Refused:
    many = "1 cell" if len(cells) == 1 else f"{len(cells):,} cells"
    return Refused(
        Code.MALFORMED_TABLE,
        f"The row has {many}, but the table has {len(names):,} columns. Put quotes around cells "
        "that contain the delimiter.",
    )
