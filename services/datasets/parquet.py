"""Reader of Parquet files through pyarrow, by small batches of rows."""

from __future__ import annotations

import datetime
import decimal
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from services.datasets.ndjson import in_words
from services.datasets.report import Code, Refused
from services.datasets.rows import Row

BATCH_BYTES = 4 * 1024**2
"""Wanted size of a batch in memory. A batch has at least one row."""

MOST_ROWS_OF_BATCH = 1_024
BUFFER_BYTES = 1024**2
"""Size of the buffer for each column. Without it, pyarrow reads whole column chunks."""

MOST_ROWS_OF_HEAD = 20
MOST_THRIFT_BYTES = 64 * 1024**2
MAX_COLUMNS = 1_000
MAX_DEPTH = 64  # levels of a schema

T = TypeVar("T")


class ParquetTable:
    """A Parquet file. It raises Refused for a damaged file, and for one beyond `max_bytes`."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        pa.set_memory_pool(pa.system_memory_pool())  # returns freed memory
        pa.set_cpu_count(1)
        self._max_bytes = max_bytes
        self._read_rows = 0
        self._size = path.stat().st_size
        self._file = _guarded(
            lambda: pq.ParquetFile(
                path,
                buffer_size=BUFFER_BYTES,
                pre_buffer=False,
                thrift_string_size_limit=MOST_THRIFT_BYTES,
                thrift_container_size_limit=1_000_000,
                schema_depth_limit=MAX_DEPTH,
            )
        )
        self.names: tuple[str, ...] = tuple(self._file.schema_arrow.names)
        if len(self.names) > MAX_COLUMNS:
            raise Refused(
                Code.UNSUPPORTED_FILE,
                f"The Parquet file has {len(self.names):,} columns. Use at most {MAX_COLUMNS:,}.",
            )
        if len(set(self.names)) < len(self.names):
            raise Refused(
                Code.UNSUPPORTED_FILE, "Two columns of the Parquet file have one name. Rename one."
            )

    def position(self) -> int:
        """Return the part of the file that was read, in bytes, estimated from its rows."""
        rows = self._file.metadata.num_rows
        return self._size * min(self._read_rows, rows) // rows if rows else self._size

    def head(self) -> list[dict[str, Any]]:
        """Return the first rows with all their columns."""
        count = min(MOST_ROWS_OF_HEAD, self._batch_rows())
        rows = list(islice(self._values(self.names, count), count))
        if not rows and (declared := self._file.metadata.num_rows):
            raise _damaged(f"it declares {declared:,} rows and has none")
        return rows

    def rows(self, names: Sequence[str]) -> Iterator[Row]:
        """Yield all rows, with these columns only."""
        for value in self._values(names, self._batch_rows()):
            self._read_rows += 1
            yield Row(value=value)

    def _batch_rows(self) -> int:
        """Return the number of rows in a batch, from the sizes that the file declares.

        They are sizes of all columns: pyarrow 26 ends the process if it is asked for one column
        whose statistics are damaged.
        """
        metadata = self._file.metadata
        groups = range(metadata.num_row_groups)
        size = sum(max(0, metadata.row_group(each).total_byte_size) for each in groups)
        row_bytes = max(1, size // max(1, metadata.num_rows))
        return max(1, min(MOST_ROWS_OF_BATCH, BATCH_BYTES // row_bytes))

    def _values(self, names: Sequence[str], batch_rows: int) -> Iterator[dict[str, Any]]:
        batches = self._file.iter_batches(batch_rows, columns=list(names), use_threads=False)
        left = self._max_bytes
        while (batch := _guarded(lambda: next(batches, None))) is not None:
            left -= batch.nbytes
            if left < 0:
                raise Refused(
                    Code.FILE_TOO_LARGE,
                    f"The file has more than {in_words(self._max_bytes)} of data when it is "
                    "unpacked. Split it, or ask the operator for a higher limit.",
                )
            for row in _guarded(partial(batch.to_pylist, maps_as_pydicts="lossy")):
                yield {name: _plain(value) for name, value in row.items()}


def _guarded(read: Callable[[], T]) -> T:
    """Return what `read` returns. Raise Refused if the file is damaged."""
    try:
        return read()
    except MemoryError:
        raise
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(" ".join(str(error).split())[:200]) from None


def _damaged(reason: str) -> Refused:
    return Refused(
        Code.DAMAGED_FILE,
        f"The Parquet file is damaged or uses an unknown feature: {reason}. Write it again, "
        "for example with pyarrow.",
    )


def _plain(value: Any) -> Any:
    """Return a cell as a JSON value. Structs lose fields without a value."""
    match value:
        case dict():
            return {key: _plain(item) for key, item in value.items() if item is not None}
        case list() | tuple():
            return [_plain(item) for item in value]
        case bytes():
            return value.decode("utf-8", errors="replace")
        case datetime.date() | datetime.time() | datetime.timedelta() | decimal.Decimal():
            return str(value)
        case _:
            return value
