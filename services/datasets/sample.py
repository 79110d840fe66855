"""The first rows of an upload, which the pages show and from which EcoLink guesses the columns."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from pydantic_core import PydanticSerializationError, to_json

from services.datasets.report import Refused
from services.datasets.rows import Row

ROWS_READ, BYTES_READ = 50, 1024**2
"""Maximum number of rows, and of their bytes, from which EcoLink guesses columns."""

ROWS_KEPT, KEPT_BYTES = 3, 64 * 1024
TEXT_KEPT, ITEMS_KEPT, LEVELS_KEPT, NAMES_KEPT = 4_000, 50, 12, 200


@dataclass(frozen=True)
class Sample:
    """The columns of an upload and the values of its first rows, with their numbers."""

    names: tuple[str, ...]
    rows: list[tuple[int, dict[str, Any]]]

    @classmethod
    def of(cls, rows: Sequence[tuple[int, dict[str, Any]]], names: Sequence[str]) -> Sample:
        """Return a sample. Without `names`, its columns are all keys of the rows."""
        found = names or list(dict.fromkeys(key for _, row in rows for key in row))
        return cls(tuple(found), list(rows))

    @property
    def values(self) -> list[dict[str, Any]]:
        """The values of the rows."""
        return [value for _, value in self.rows]

    def document(self) -> bytes:
        """Return the names and a few rows as JSON of limited size and depth."""
        kept: list[dict[str, Any]] = []
        size = 0
        for number, value in self.rows:
            row = {"number": number, "value": _shortened(value, LEVELS_KEPT)}
            try:
                size += len(to_json(row))
            except PydanticSerializationError:  # a lone surrogate
                continue
            if size > KEPT_BYTES:
                break
            kept.append(row)
            if len(kept) == ROWS_KEPT:
                break
        names = [name for name in self.names[:NAMES_KEPT] if _is_storable(name)]
        return to_json({"names": names, "rows": kept})


def looked_at(rows: Iterator[Row]) -> tuple[list[tuple[int, dict[str, Any]]], Iterator[Row]]:
    """Read the first rows. Return their numbers and values, and an iterator over all rows.

    Rows with errors have no value. If reading a row raises Refused, the iterator raises it later.
    """
    first: list[Row] = []
    values: list[tuple[int, dict[str, Any]]] = []
    size = 0
    try:
        for number, row in enumerate(rows, 1):
            first.append(row)
            value = row.value if row.text is None else _object(row.text)
            if value is not None:
                values.append((row.number or number, value))
            size += len(row.text) if row.text is not None else _characters(row.value)
            if number == ROWS_READ or size > BYTES_READ:
                break
    except Refused as error:
        return values, _then(first, error)
    return values, chain(first, rows)


def _then(rows: Iterable[Row], error: Refused) -> Iterator[Row]:
    yield from rows
    raise error


def first_lines(content: bytes, *, is_whole: bool) -> list[tuple[int, dict[str, Any]]]:
    """Return the objects in the first lines of a JSONL file, with their line numbers."""
    lines = content.split(b"\n", ROWS_READ)
    complete = lines if is_whole and len(lines) <= ROWS_READ else lines[:-1]
    found = ((number, _object(line)) for number, line in enumerate(complete, 1))
    return [(number, value) for number, value in found if value is not None]


def _object(text: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _characters(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    items: Iterable[Any] = ()
    if isinstance(value, Mapping):
        items = value.values()
    elif isinstance(value, list):
        items = value
    return 8 + sum(map(_characters, items))


def _shortened(value: Any, levels: int) -> Any:
    """Return a JSON value of limited size and depth."""
    if isinstance(value, str):
        return value if len(value) <= TEXT_KEPT else value[:TEXT_KEPT] + "…"
    if not isinstance(value, dict | list):
        return value
    if levels == 0:
        return "…"
    if isinstance(value, list):
        return [_shortened(each, levels - 1) for each in value[:ITEMS_KEPT]]
    items = list(value.items())[:NAMES_KEPT]
    return {key[:TEXT_KEPT]: _shortened(each, levels - 1) for key, each in items}


def _is_storable(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in name
