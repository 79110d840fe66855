"""Errors and warnings of a validation, collected in limited memory."""

from __future__ import annotations

from dataclasses import dataclass, field

from domain.datasets.validation_report import LineProblem, Notice
from services.datasets.excerpts import excerpt_of
from services.datasets.report import NAMES_SHOWN, Code, Refused
from services.datasets.rows import LINE

ERRORS_SHOWN = 100
LINES_SHOWN = 10

SENTENCES: dict[Code, str] = {
    Code.BYTE_ORDER_MARK: "EcoLink removed the byte order mark at the start of the file.",
    Code.BLANK_LINES: "EcoLink skipped {count:,} blank {lines}.",
    Code.DUPLICATE_LINES: (
        "{count:,} {lines} {repeat} an earlier example. EcoLink kept each example once (first "
        "{repeats}: {lines} {first})."
    ),
    Code.UNUSED_KEYS: "{count:,} {lines} {have} keys that training ignores: {names}.",
    Code.UNUSED_COLUMNS: "The file has columns that training ignores: {names}.",
    Code.TOOL_DEFINITIONS: (
        "{count:,} {lines} {define} tools. EcoLink removed the definitions, as you chose, so the "
        "model does not learn to read them."
    ),
    Code.CALLS_WITHOUT_TOOLS: (
        '{count:,} {lines} {call} tools without a definition in "tools", so the model does not '
        "learn to read definitions (first {lines}: {first})."
    ),
    Code.ARGUMENTS_DIFFER: (
        "{count:,} {lines} {have} a tool call whose arguments do not match the schema of the tool: "
        "{names} (first {lines}: {first})."
    ),
    Code.UNUSED_MESSAGE_KEYS: (
        "{count:,} {lines} {have} messages with keys that training ignores: {names}."
    ),
    Code.SYSTEM_NOT_FIRST: (
        "{count:,} {lines} {have} a system message after other messages. The chat templates "
        "of some base models reject this."
    ),
    Code.ENDS_WITHOUT_ASSISTANT: (
        "{count:,} {lines} {do} not end with an assistant message. Training ignores the "
        "messages after the last assistant message."
    ),
}
SINGULAR = {
    "repeats": "repeat",
    "repeat": "repeats",
    "have": "has",
    "define": "defines",
    "call": "calls",
    "do": "does",
}


@dataclass(slots=True)
class _Kind:
    """The lines with one kind of warning."""

    count: int = 0
    lines: list[int] = field(default_factory=list)
    names: dict[str, None] = field(default_factory=dict)


class Findings:
    """The first errors and warnings of a validation, and the total number of each."""

    def __init__(self) -> None:
        self.unit = LINE
        self.errors: list[LineProblem] = []
        self.error_count = 0
        self._kinds: dict[Code, _Kind] = {}

    def refuse(self, line: int, content: bytes, error: Refused) -> None:
        """Record an error in a line."""
        self.error_count += 1
        if len(self.errors) < ERRORS_SHOWN:
            excerpt = excerpt_of(content, error)
            self.errors.append(
                LineProblem(line=line, code=error.code, message=error.message, excerpt=excerpt)
            )

    def refuse_file(self, code: Code, message: str, *, only: bool = False) -> None:
        """Record an error of the whole file. If `only` is true, discard the errors of its lines."""
        if only:
            self.errors.clear()
            self.error_count = 0
        self.error_count += 1
        if len(self.errors) < ERRORS_SHOWN:
            self.errors.append(LineProblem(line=None, code=code, message=message))

    def warn(self, line: int, code: Code, names: tuple[str, ...] = ()) -> None:
        """Record a warning about a line. Each line counts once per code."""
        kind = self._kinds.setdefault(code, _Kind())
        if not kind.lines or kind.lines[-1] != line:
            kind.count += 1
            if len(kind.lines) < LINES_SHOWN:
                kind.lines.append(line)
        for name in names:
            if len(kind.names) < NAMES_SHOWN:
                kind.names[name] = None

    def warn_file(self, code: Code, names: tuple[str, ...]) -> None:
        """Record a warning about the whole file."""
        self._kinds[code] = _Kind(names=dict.fromkeys(names))

    def count(self, code: Code) -> int:
        """Return the number of lines with a warning of this code."""
        return self._kinds[code].count if code in self._kinds else 0

    @property
    def warnings(self) -> tuple[Notice, ...]:
        """All warnings by code, in the order in which each first occurred."""
        return tuple(self._notice(code, kind) for code, kind in self._kinds.items())

    def _notice(self, code: Code, kind: _Kind) -> Notice:
        message = SENTENCES[code].format(
            **SINGULAR if kind.count == 1 else {many: many for many in SINGULAR},
            lines=self.unit if kind.count == 1 else f"{self.unit}s",
            count=kind.count,
            first=", ".join(f"{line:,}" for line in kind.lines),
            names=", ".join(kind.names),
        )
        return Notice(code=code, message=message, count=kind.count, lines=tuple(kind.lines))
