"""Validation of an uploaded dataset, which also writes its normalized examples."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import Any

from pydantic_core import PydanticSerializationError, to_json

from domain.datasets.dataset import DatasetStatus, UploadOptions
from infrastructure.limited_process import CpuTimeExceeded, cpu_limit
from services.datasets.digests import DIGEST_BYTES, DigestSet
from services.datasets.examples import read_example
from services.datasets.file_format import FormatCheck
from services.datasets.findings import Findings
from services.datasets.json_line import decode
from services.datasets.messages import Notes
from services.datasets.ndjson import in_words, limited, split_lines
from services.datasets.report import Code, Progress, Refused, Report

MAX_LINE_BYTES = 8 * 1024**2
PROGRESS_BYTES = 4 * 1024**2
MOST_LINES = 20_000_000  # includes blank lines
LINE_CPU_SECONDS = 20
LONG_LINE_BYTES = 64 * 1024
"""Size in bytes from which a line has its own CPU limit. Shorter lines cannot take long."""
BYTE_ORDER_MARK = "\ufeff".encode()


def validate(
    chunks: Iterable[bytes],
    sink: Callable[[bytes], object],
    *,
    on_progress: Callable[[Progress], None],
    max_bytes: int,
    max_line_bytes: int = MAX_LINE_BYTES,
    options: UploadOptions = UploadOptions(),
) -> Report:
    """Validate a chat dataset and write its normalized examples to `sink`.

    `sink` is a function such as a buffered file's `write`. The output is JSONL with one
    `{"messages": [...]}` per line, in file order. An example that defines tools also has `tools`,
    unless `options` ignore them. Each distinct example is written once, unless `options` keep
    duplicates. After the first error, validation continues but writes nothing more, so the output
    is complete only if the status is `ready_for_training`. `on_progress` is called about every
    4 MiB of input and at the end. Raise only the errors that `chunks`, `sink` and
    `on_progress` raise. Call this only from the main thread.
    """
    validation = _Validation(sink, max_line_bytes, options)
    reported = 0
    try:
        for content, size in split_lines(limited(chunks, max_bytes), max_line_bytes):
            validation.take(content, size)
            if validation.bytes - reported >= PROGRESS_BYTES:
                reported = validation.bytes
                on_progress(Progress(validation.lines, validation.bytes))
    except Refused as error:
        is_verdict = error.code is Code.UNSUPPORTED_FILE
        validation.findings.refuse_file(error.code, error.message, only=is_verdict)
    report = validation.report()
    on_progress(Progress(report.lines, report.bytes))
    return report


class _Validation:
    """The state of a validation. It raises Refused only for errors of the whole file."""

    def __init__(
        self, sink: Callable[[bytes], object], max_line_bytes: int, options: UploadOptions
    ) -> None:
        self.findings = Findings()
        self.lines = 0
        self.bytes = 0
        self._max_line_bytes = max_line_bytes
        self._ignore_tools = options.ignore_tools
        self._examples = self._with_tools = 0
        self._duplicates = 0
        self._seen = None if options.keep_duplicates else DigestSet()
        self._format = FormatCheck()
        self._sink = sink
        self._digest = hashlib.sha256()
        self._written_bytes = 0

    def take(self, content: bytes, size: int) -> None:
        """Check the next line. `size` is its size in the file in bytes, including the newline."""
        self.lines += 1
        self.bytes += size
        if self.lines > MOST_LINES:
            raise Refused(
                Code.TOO_MANY_LINES,
                f"The file has more than {MOST_LINES:,} lines. Remove blank lines or split it.",
            )
        self._format.take(content)
        notes: Notes = []
        try:
            if size > self._max_line_bytes:
                raise Refused(
                    Code.LINE_TOO_LONG,
                    f"The line has {in_words(size)}; the limit is "
                    f"{in_words(self._max_line_bytes)}. Shorten it or remove it.",
                )
            example = self._line_in_time(content, notes)
        except Refused as error:
            if self.lines == 1:
                content = content.removeprefix(BYTE_ORDER_MARK)
            self.findings.refuse(self.lines, content, error)
        else:
            if example is not None:
                self._keep(*example)
        for code, names in notes:
            self.findings.warn(self.lines, code, names)

    def _line_in_time(self, content: bytes, notes: Notes) -> tuple[bytes, bool] | None:
        """Read a line like `_line`. Raise Refused also if it exceeds a limit."""
        if len(content) < LONG_LINE_BYTES:
            return self._line(content, notes)
        try:
            with cpu_limit(LINE_CPU_SECONDS):
                return self._line(content, notes)
        except (CpuTimeExceeded, MemoryError) as error:
            what = "memory" if isinstance(error, MemoryError) else "computing time"
            raise Refused(
                Code.TOO_COMPLEX, f"Reading the line takes too much {what}. Simplify or remove it."
            ) from None

    def _line(self, content: bytes, notes: Notes) -> tuple[bytes, bool] | None:
        """Return a line's normalized example, and whether it defines tools; None without one.

        Raise Refused if the line is invalid.
        """
        text = decode(content)
        if self.lines == 1 and text.startswith("\ufeff"):
            notes.append((Code.BYTE_ORDER_MARK, ()))
            text = text[1:]
        if not text or text.isspace():
            notes.append((Code.BLANK_LINES, ()))
            return None
        example = read_example(text, notes, ignore_tools=self._ignore_tools)
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
        return written, "tools" in example

    def _keep(self, example: bytes, has_tools: bool) -> None:
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

    def report(self) -> Report:
        """Return the report. Call this after the last line."""
        findings = self.findings
        try:
            self._format.finish()
        except Refused as verdict:
            findings.refuse_file(verdict.code, verdict.message, only=True)
        if not self._examples and not findings.error_count:
            findings.refuse_file(Code.EMPTY_FILE, "The file has no examples. Write one per line.")
        rejected = findings.error_count > 0
        return Report(
            status=DatasetStatus.REJECTED if rejected else DatasetStatus.READY_FOR_TRAINING,
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


def has_null(value: Any) -> bool:
    """Return True if any string in a JSON value contains the null character."""
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, dict):
        return any(has_null(key) or has_null(item) for key, item in value.items())
    return isinstance(value, list) and any(map(has_null, value))
