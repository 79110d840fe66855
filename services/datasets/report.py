"""Codes of errors and warnings, and the stored report of a validation."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import NamedTuple

from domain.datasets.dataset import DatasetStatus
from domain.datasets.validation_report import LineProblem, ValidationReport
from infrastructure.process.limited_process import Exceeded

NAMES_SHOWN = 5  # number of keys that a warning lists
UNKNOWN_FORMAT = "unknown"


class Code(StrEnum):
    """Stable codes of errors and warnings. Messages may change, but codes do not."""

    # Errors of the whole file
    EMPTY_FILE = "empty_file"
    FILE_TOO_LARGE = "file_too_large"
    UNSUPPORTED_FILE = "unsupported_file"
    TOO_MANY_LINES = "too_many_lines"
    NOT_READABLE = "not_readable"
    DAMAGED_FILE = "damaged_file"
    COMPRESSED_TOO_MUCH = "compressed_too_much"
    UNKNOWN_COLUMNS = "unknown_columns"
    MISSING_COLUMN = "missing_column"
    # Errors of the encoding and the JSON of a line
    LINE_TOO_LONG = "line_too_long"
    BAD_UTF8 = "bad_utf8"
    MALFORMED_JSON = "malformed_json"
    BAD_NUMBER = "bad_number"
    DUPLICATE_KEY = "duplicate_key"
    TOO_DEEP = "too_deep"
    TOO_COMPLEX = "too_complex"
    NOT_OBJECT = "not_object"
    LONE_SURROGATE = "lone_surrogate"
    NULL_CHARACTER = "null_character"
    MALFORMED_TABLE = "malformed_table"
    MALFORMED_TRANSCRIPT = "malformed_transcript"
    # Errors of an example
    MISSING_MESSAGES = "missing_messages"
    AMBIGUOUS_EXAMPLE = "ambiguous_example"
    BAD_PROMPT = "bad_prompt"
    BAD_COMPLETION = "bad_completion"
    MESSAGES_NOT_LIST = "messages_not_list"
    NO_MESSAGES = "no_messages"
    FIRST_MESSAGE = "first_message"
    NO_ASSISTANT = "no_assistant"
    NOTHING_TO_LEARN = "nothing_to_learn"
    BAD_TOOLS = "bad_tools"
    MIXED_KINDS = "mixed_kinds"
    MISSING_ANSWER = "missing_answer"
    EQUAL_ANSWERS = "equal_answers"
    PROMPT_DIFFERS = "prompt_differs"
    # Errors of a message
    MESSAGE_NOT_OBJECT = "message_not_object"
    MISSING_ROLE = "missing_role"
    WRONG_ROLE = "wrong_role"
    EMPTY_CONTENT = "empty_content"
    CONTENT_NOT_TEXT = "content_not_text"
    UNSUPPORTED_CONTENT = "unsupported_content"
    BAD_WEIGHT = "bad_weight"
    BAD_NAME = "bad_name"
    BAD_TOOL_CALLS = "bad_tool_calls"
    BAD_TOOL_ARGUMENTS = "bad_tool_arguments"
    BAD_TOOL_CALL_ID = "bad_tool_call_id"
    ORPHAN_TOOL_MESSAGE = "orphan_tool_message"
    UNKNOWN_TOOL = "unknown_tool"
    UNANSWERED_CALL = "unanswered_call"
    # Warnings
    BYTE_ORDER_MARK = "byte_order_mark"
    BLANK_LINES = "blank_lines"
    DUPLICATE_LINES = "duplicate_lines"
    UNUSED_KEYS = "unused_keys"
    UNUSED_COLUMNS = "unused_columns"
    TOOL_DEFINITIONS = "tool_definitions"
    CALLS_WITHOUT_TOOLS = "calls_without_tools"
    ARGUMENTS_DIFFER = "arguments_differ"
    UNUSED_MESSAGE_KEYS = "unused_message_keys"
    SYSTEM_NOT_FIRST = "system_not_first"
    ENDS_WITHOUT_ASSISTANT = "ends_without_assistant"


class Refused(Exception):
    """A line is not a valid example: `message`, with column and message position (from 1)."""

    def __init__(
        self, code: Code, message: str, *, column: int | None = None, position: int | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.column = column
        self.position = position


class Progress(NamedTuple):
    """The number of lines and bytes that a validation has read."""

    lines: int
    bytes: int


class Report(ValidationReport):
    """The stored report of a validation.

    `lines` and `bytes` count the input that was read, including blank lines. `tool_lines` counts
    the valid lines whose tool definitions training ignores. `sha256` and `normalized_bytes`
    describe the normalized output. They are None if the file is rejected.
    """

    tool_lines: int = 0
    sha256: str | None = None
    normalized_bytes: int | None = None


STOPPED = {
    Exceeded.TIME: "ran out of computing time",
    Exceeded.MEMORY: "ran out of memory",
    None: "failed several times",
}


def stopped(exceeded: Exceeded | None, lines: int, bytes: int) -> Report:
    """Return the report of a validation that exceeded a limit or, without one, failed."""
    message = (
        f"The validation {STOPPED[exceeded]} after line or row {lines:,}. Shorten or remove the "
        "following ones, or split the file."
    )
    return refused(message, lines, bytes)


def refused(message: str, lines: int = 0, bytes: int = 0) -> Report:
    """Return the report of a file that could not be read. `message` gives the reason."""
    return Report(
        status=DatasetStatus.REJECTED,
        format=UNKNOWN_FORMAT,
        examples=0,
        duplicates=0,
        lines=lines,
        bytes=bytes,
        warnings=(),
        errors=(LineProblem(line=None, code=Code.NOT_READABLE, message=message),),
        error_count=1,
    )


def quoted(value: object, limit: int = 40) -> str:
    """Return a JSON value as one line of at most `limit` characters, for use in a message."""
    if isinstance(value, list):
        return "a list"
    if isinstance(value, dict):
        return "an object"
    text = value if isinstance(value, str) else json.dumps(value)
    text = text if len(text) <= limit else text[: limit - 3] + "..."
    shown = "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in text
    )
    return f'"{shown}"' if isinstance(value, str) else shown
