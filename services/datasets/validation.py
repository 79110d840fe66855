"""Validation of an uploaded dataset, which also writes its normalized examples."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic_core import PydanticSerializationError, to_json

from domain.datasets.columns import OF_PAIRS, Columns, Role, titled
from domain.datasets.dataset import DatasetKind, DatasetStatus, UploadOptions
from infrastructure.datasets.chat_columns import (
    NAMES,
    Shape,
    free_role,
    guess_columns,
    has_value,
    is_openai,
    plain_name,
    shape_of,
    without_role,
)
from infrastructure.process.limited_process import CpuTimeExceeded, cpu_limit
from services.datasets.digests import DIGEST_BYTES, DigestSet
from services.datasets.examples import read_example, read_row
from services.datasets.findings import Findings
from services.datasets.json_line import decode
from services.datasets.key_columns import USELESS_KEYS, KeyColumns, answer_of_pair
from services.datasets.line_numbers import LINES, LineNumbers, LineNumbersWriter
from services.datasets.messages import Notes
from services.datasets.ndjson import in_words, limited, split_lines
from services.datasets.report import (
    NAMES_SHOWN,
    UNKNOWN_FORMAT,
    Code,
    Progress,
    Refused,
    Report,
    quoted,
)
from services.datasets.rows import LINE, ROW, Row, Table
from services.datasets.sample import Sample, first_lines, looked_at
from services.datasets.structure import JSONL, Head, table_of
from services.datasets.unpacking import Sizes, unpack

MAX_LINE_BYTES = 8 * 1024**2
PROGRESS_BYTES = 4 * 1024**2
MOST_LINES = 20_000_000  # includes blank lines
LINE_CPU_SECONDS = 20
LONG_LINE_BYTES = 64 * 1024
"""Size in bytes from which a line has its own CPU limit. Shorter lines cannot take long."""
BYTE_ORDER_MARK = "\ufeff".encode()

OPENAI_KEYS = {"messages", "prompt", "completion", "tools", "functions", *USELESS_KEYS}
OF_OPENAI = (Role.MESSAGES, Role.USER, Role.ASSISTANT, Role.TOOLS)
"""Roles whose values the reader of OpenAI's format checks in every example."""

SAMPLE = "sample.json"
"""Name of the file with the first rows."""

Sink = Callable[[bytes], object]


@dataclass(frozen=True)
class Choices:
    """The choices of the owner at the upload. Without `columns`, EcoLink guesses them.

    `edit` returns each normalized example in its new form, or None to leave it out. `lines` has the
    numbers of the lines if they differ from those in the file.
    """

    options: UploadOptions = field(default_factory=UploadOptions)
    columns: Columns | None = None
    edit: Callable[[bytes], bytes | None] | None = None
    lines: LineNumbers | None = None
    unit: str = LINE


@dataclass
class _Upload:
    """The content of an upload: the lines of JSONL with their sizes, or the rows of a table."""

    format: str
    sample: Sample
    lines: Iterator[tuple[bytes, int]] | None = None
    table: Table | None = None
    position: Callable[[], int] | None = None
    """Bytes of the upload that were read. None: the sizes of the lines."""

    choose: Callable[[Collection[str]], None] = field(default=lambda _: None)
    """Called with the names of the needed columns before the rows are read."""


def validate(
    chunks: Iterable[bytes],
    sink: Sink,
    *,
    on_progress: Callable[[Progress], None],
    max_bytes: int,
    max_line_bytes: int = MAX_LINE_BYTES,
    choices: Choices = Choices(),
) -> Report:
    """Validate a dataset in text and write its normalized examples to `sink`.

    `sink` is a function such as a buffered file's `write`. The output is JSONL with one
    `{"messages": [...]}` per line, in file order. An example that defines tools also has `tools`,
    unless `choices` ignore them. Preference pairs are written in OpenAI's format. Each distinct
    example is written once, unless `choices` keep duplicates. After the first error, validation
    continues but writes nothing more, so the output is complete only if the status is
    `ready_for_training`. `on_progress` is called about every 4 MiB of input and at the end. Raise
    only the errors that `chunks`, `sink` and `on_progress` raise. Call this only from the main
    thread.
    """
    validation = _Validation(sink, max_line_bytes, choices)
    return validation.run(lambda: _text(limited(chunks, max_bytes), max_line_bytes), on_progress)


def validate_file(
    path: Path,
    sink: Sink,
    *,
    directory: Path,
    on_progress: Callable[[Progress], None],
    sizes: Sizes,
    choices: Choices = Choices(),
) -> Report:
    """Validate an upload in any format like `validate`.

    Write the first rows to the file SAMPLE in `directory` before reading the others, and the lines
    of the examples to the file LINES. The directory also gets temporary files. The progress counts
    bytes of the upload, even if it is packed.
    """

    samples: list[Sample] = []

    def opened() -> _Upload:
        unpacked = unpack(path, directory, sizes)
        if unpacked.chunks is not None:
            upload = _text(unpacked.chunks, MAX_LINE_BYTES)
            if unpacked.packing or upload.table is not None:
                upload.position = unpacked.position
        else:
            assert unpacked.parquet is not None
            upload = _parquet(unpacked.parquet, path.stat().st_size, sizes.unpacked)
        upload.format += unpacked.packing
        (directory / SAMPLE).write_bytes(upload.sample.document())
        samples.append(upload.sample)
        return upload

    with (directory / LINES).open("wb") as numbers:
        validation = _Validation(sink, MAX_LINE_BYTES, choices, numbers.write)
        report = validation.run(opened, on_progress)
    for sample in samples:  # later rows of JSON may have more keys, which a user can choose
        complete = replace(sample, names=tuple(validation.names))
        (directory / SAMPLE).write_bytes(complete.document())
    return report


def _text(chunks: Iterable[bytes], max_line_bytes: int) -> _Upload:
    """Return the content of a text file. Raise Refused if its format is not supported."""
    counted = _Counted(chunks)
    head = Head(counted)
    table = table_of(head, max_line_bytes)
    if table is None:
        sample = Sample.of(first_lines(head.content, is_whole=head.is_whole), ())
        return _Upload(JSONL, sample, split_lines(head.all_chunks(), max_line_bytes))
    values, table.rows = looked_at(table.rows)
    sample = Sample.of(values, table.names)
    return _Upload(table.format, sample, table=table, position=lambda: counted.bytes)


def _parquet(path: Path, size: int, max_bytes: int) -> _Upload:
    from services.datasets.parquet import ParquetTable

    file = ParquetTable(path, max_bytes)
    sample = Sample.of(list(enumerate(file.head(), 1)), file.names)
    table = Table("Parquet", ROW, iter(()), file.names, positional=True)
    unpacked_size = path.stat().st_size or 1

    def choose(names: Collection[str]) -> None:
        table.rows = file.rows(list(names))

    def position() -> int:
        return size * file.position() // unpacked_size

    return _Upload("Parquet", sample, table=table, position=position, choose=choose)


class _Counted:
    """Chunks whose bytes are counted."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self.bytes = 0

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        chunk = next(self._chunks)
        self.bytes += len(chunk)
        return chunk


class _Validation:
    """The state of a validation. It raises Refused only for errors of the whole file."""

    def __init__(
        self, sink: Sink, max_line_bytes: int, choices: Choices, numbers: Sink = lambda _: None
    ) -> None:
        self.findings = Findings()
        self._edit, self._known_lines, self._unit = choices.edit, choices.lines, choices.unit
        self._numbers = LineNumbersWriter(numbers)
        self.lines = 0
        self._read_bytes = 0
        self._position: Callable[[], int] | None = None
        self._max_line_bytes = max_line_bytes
        self._ignore_tools = choices.options.ignore_tools
        self._chosen = self._columns = choices.columns
        self._shown: Columns = choices.columns or {}
        self._keys = KeyColumns()
        self._answers_of_pairs: list[str] = []
        """Columns of a table of chats that belong to preference pairs, so they must be empty."""

        self._format = UNKNOWN_FORMAT
        self._shape: Shape | None = None
        self._examples = self._with_tools = 0
        self._duplicates = 0
        self._seen = None if choices.options.keep_duplicates else DigestSet()
        self._sink = sink
        self._digest = hashlib.sha256()
        self._written_bytes = 0

    @property
    def _kind(self) -> DatasetKind:
        pairs = self._columns is not None and Role.CHOSEN in self._columns
        return DatasetKind.PREFERENCES if pairs else DatasetKind.CHATS

    @property
    def names(self) -> Collection[str]:
        """Names of all columns of the upload, or of the keys of its rows."""
        return self._keys.names

    @property
    def bytes(self) -> int:
        """Bytes of the upload that were read."""
        return self._read_bytes if self._position is None else self._position()

    def run(self, open: Callable[[], _Upload], on_progress: Callable[[Progress], None]) -> Report:
        """Validate an upload and return the report."""
        reported = 0
        try:
            for row, size in self._rows(open()):
                self._take(row, size)
                if self.bytes - reported >= PROGRESS_BYTES:
                    reported = self.bytes
                    on_progress(Progress(self.lines, reported))
            if missing := self._keys.missing:
                raise _not_in_file(missing[0], self.names)
        except Refused as error:
            only = error.code in (Code.UNSUPPORTED_FILE, Code.MISSING_COLUMN, Code.UNKNOWN_COLUMNS)
            self.findings.refuse_file(error.code, error.message, only=only)
        report = self.report()
        on_progress(Progress(report.lines, report.bytes))
        return report

    def _rows(self, upload: _Upload) -> Iterator[tuple[Row, int]]:
        """Yield the rows of an upload with their sizes in bytes, where the size is known."""
        self._format, self._position = upload.format, upload.position
        if upload.table is not None:
            self.findings.unit = upload.table.unit
        self._choose_columns(upload)
        if self._known_lines is not None:
            self.findings.unit = self._unit
        if upload.lines is not None:
            for number, (content, size) in enumerate(upload.lines, 1):
                known = self._known_lines and self._known_lines.line_of(number)
                yield Row(text=content, number=known), size
            return
        assert upload.table is not None
        for row in upload.table.rows:
            yield row, 0

    def _choose_columns(self, upload: _Upload) -> None:
        """Choose the columns of the examples, or raise Refused for unknown or unclear ones."""
        names, values = upload.sample.names, upload.sample.values
        is_table = upload.table is not None and bool(upload.table.names)
        chosen = self._chosen is not None
        self._keys = KeyColumns(names=names)
        if self._chosen is not None:
            missing = [name for name in self._chosen.values() if name not in names]
            if missing and is_table:
                raise _not_in_file(missing[0], names)
            columns = self._chosen
        else:
            positional = upload.table is not None and upload.table.positional
            columns = guess_columns(names, values, by_position=positional)
        openai = not is_table and _has_openai_keys(names)
        if columns is not None:
            openai = is_openai(columns, values)
        unclear = None if chosen else without_role(columns or {}, names, values)
        if unclear is not None and not (openai and unclear[1] in OF_OPENAI):
            raise _unsuitable(*unclear, upload.sample)
        if columns is None:
            if values and not openai:
                raise _unknown(names)
            return
        self._shape = shape_of(columns, values)
        self._shown = columns
        if is_table or chosen or not openai:
            self._columns = columns
        if not is_table:
            self._keys = KeyColumns(self._columns, names, chosen=chosen)
            return
        unused = [name for name in names if name not in columns.values()]
        if unused:
            self.findings.warn_file(Code.UNUSED_COLUMNS, (_listed(unused),))
        if not chosen:
            roles = {name: free_role(name, columns) for name in unused}
            self._answers_of_pairs = [name for name in unused if roles[name] in OF_PAIRS]
        upload.choose([*columns.values(), *self._answers_of_pairs])

    def _take(self, row: Row, size: int) -> None:
        """Check the next row. `size` is that of a line in bytes, including the newline."""
        self.lines = self.lines + 1 if row.number is None else row.number
        self._read_bytes += size
        if self.lines > MOST_LINES:
            raise Refused(
                Code.TOO_MANY_LINES,
                f"The file has more than {MOST_LINES:,} {self.findings.unit}s. Split it.",
            )
        notes: Notes = []
        try:
            if row.error is not None:
                raise row.error
            self._require_length(max(size, len(row.text or b"")))
            example = self._example_in_time(row, notes)
        except Refused as error:
            self.findings.refuse(self.lines, self._content(row), error)
        else:
            if example is not None:
                self._keep(*example)
        for code, names in notes:
            self.findings.warn(self.lines, code, names)

    def _require_length(self, size: int) -> None:
        """Raise Refused if a row has too many bytes."""
        if size > self._max_line_bytes:
            raise Refused(
                Code.LINE_TOO_LONG,
                f"The {self.findings.unit} has {in_words(size)}; the limit is "
                f"{in_words(self._max_line_bytes)}. Shorten it or remove it.",
            )

    def _content(self, row: Row) -> bytes:
        if row.text is not None:
            return row.text.removeprefix(BYTE_ORDER_MARK) if self.lines == 1 else row.text
        try:
            return b"" if row.value is None else to_json(row.value)
        except PydanticSerializationError:
            return b""

    def _example_in_time(self, row: Row, notes: Notes) -> tuple[bytes, bool] | None:
        """Read a row like `_example`. Raise Refused also if it exceeds a limit."""
        if row.text is not None and len(row.text) < LONG_LINE_BYTES:
            return self._example(row, notes)
        try:
            with cpu_limit(LINE_CPU_SECONDS):
                return self._example(row, notes)
        except (CpuTimeExceeded, MemoryError) as error:
            what = "memory" if isinstance(error, MemoryError) else "computing time"
            raise Refused(
                Code.TOO_COMPLEX,
                f"Reading the {self.findings.unit} takes too much {what}. Simplify or remove it.",
            ) from None

    def _example(self, row: Row, notes: Notes) -> tuple[bytes, bool] | None:
        """Return a normalized example, if any, and whether it defines tools, or raise Refused."""
        ignore = self._ignore_tools
        if row.value is not None:
            assert self._columns is not None
            if name := next((n for n in self._answers_of_pairs if has_value(row.value[n])), None):
                raise answer_of_pair(name)
            example = read_row(row.value, notes, self._columns, ignore_tools=ignore)
        else:
            text = decode(row.text or b"")
            if self.lines == 1 and text.startswith("\ufeff"):
                notes.append((Code.BYTE_ORDER_MARK, ()))
                text = text[1:]
            if not text or text.isspace():
                notes.append((Code.BLANK_LINES, ()))
                return None
            example = read_example(text, notes, ignore_tools=ignore, keys=self._keys)
        try:
            written = to_json(example)
        except PydanticSerializationError:
            raise Refused(
                Code.LONE_SURROGATE,
                "A \\ud... escape is one half of a surrogate pair. Write both halves, or the "
                "character itself.",
            ) from None
        if b"\\u0000" in written and has_null(example):
            raise Refused(
                Code.NULL_CHARACTER, "A string contains the null character \\u0000. Remove it."
            )
        if row.value is not None:
            self._require_length(len(written))
        return written, "tools" in example.get("input", example)

    def _keep(self, original: bytes, has_tools: bool) -> None:
        example = original if self._edit is None else self._edit(original)
        if example is None:
            return
        if self._seen is not None and not self._seen.add(
            hashlib.blake2b(example, digest_size=DIGEST_BYTES).digest()
        ):
            self._duplicates += 1
            self.findings.warn(self.lines, Code.DUPLICATE_LINES)
            return
        self._examples += 1
        self._with_tools += has_tools
        if not self.findings.error_count:
            line = example + b"\n"
            self._digest.update(line)
            self._written_bytes += len(line)
            self._sink(line)
            self._numbers.add(self.lines)

    def _all_columns(self) -> Columns:
        """Return the columns with those that only later rows have."""
        known = {**self._keys.late, **self._shown}
        return {role: known[role] for role in Role if role in known}

    def report(self) -> Report:
        """Return the report. Call this after the last line."""
        findings = self.findings
        if not self._examples and not findings.error_count:
            message = (
                "The file has no examples. Add some."
                if self._edit is None
                else "The filters leave no examples. Choose other filters."
            )
            findings.refuse_file(Code.EMPTY_FILE, message)
        rejected = findings.error_count > 0
        return Report(
            status=DatasetStatus.REJECTED if rejected else DatasetStatus.READY_FOR_TRAINING,
            format=self._format,
            shape=self._shape,
            kind=self._kind,
            columns={str(role): name for role, name in self._all_columns().items()},
            columns_chosen=self._chosen is not None,
            unit=findings.unit,
            examples=self._examples,
            duplicates=self._duplicates,
            tool_lines=findings.count(Code.TOOL_DEFINITIONS),
            examples_with_tools=self._with_tools,
            lines=self.lines,
            bytes=self.bytes,
            sha256=None if rejected else self._digest.hexdigest(),
            normalized_bytes=None if rejected else self._written_bytes,
            warnings=findings.warnings,
            errors=tuple(findings.errors),
            error_count=findings.error_count,
        )


def _has_openai_keys(names: Collection[str]) -> bool:
    """Return True if keys are those of chats in OpenAI's format, or none is known."""
    given = set(names)
    known = {plain_name(name) for name in given} & {*NAMES[Role.USER], *NAMES[Role.ASSISTANT]}
    return (
        "messages" in given
        or given <= OPENAI_KEYS
        or not known
        or {"prompt", "completion"} <= given
    )


def _unknown(names: Collection[str]) -> Refused:
    return Refused(
        Code.UNKNOWN_COLUMNS,
        f"The file has the columns {_listed(names)}. It is not clear which of them has the user's "
        "text and which has the answer, or which has the preferred and which the rejected answer. "
        "Choose the columns.",
    )


def _unsuitable(name: str, role: Role, at: int, sample: Sample) -> Refused:
    number, row = sample.rows[at]
    return Refused(
        Code.UNKNOWN_COLUMNS,
        f"The values of the column {quoted(name)} do not suit {titled(role)}, such as "
        f"{quoted(row.get(name))} in row {number:,}. Correct them, or choose the columns: without "
        f"{quoted(name)} to ignore it, or with a role for it.",
    )


def _not_in_file(name: str, names: Collection[str]) -> Refused:
    return Refused(
        Code.MISSING_COLUMN,
        f"The column {quoted(name)} is not in the file. It has {_listed(names)}. Choose one of "
        "them.",
    )


def _listed(names: Collection[str]) -> str:
    more = len(names) - NAMES_SHOWN
    shown = ", ".join(map(quoted, list(names)[:NAMES_SHOWN]))
    return f"{shown} and {more:,} more" if more > 0 else shown


def has_null(value: Any) -> bool:
    """Return True if any string in a JSON value contains the null character."""
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, dict):
        return any(has_null(key) or has_null(item) for key, item in value.items())
    return isinstance(value, list) and any(map(has_null, value))
