"""A JSON parser for lines that is stricter than Python's and has clear errors."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any, NoReturn

from services.datasets.report import Code, Refused, quoted

# Descriptions of the errors of Python's JSON decoder.
REASONS = {
    "Expecting value": "a value is missing or not in quotes",
    "Expecting property name": "a key in double quotes is missing",
    "Expecting ':' delimiter": "a colon is missing after a key",
    "Expecting ',' delimiter": "a comma is missing, or a quote inside a string has no backslash",
    "Illegal trailing comma": "remove the comma",
    "Extra data": "text follows the JSON object; put each example on its own line",
    "Invalid control character": "escape the control character, such as a tab",
    "Unterminated string": "the string has no closing quote",
    "Invalid \\escape": "the escape sequence is unknown",
    "Invalid \\uXXXX escape": "write four hexadecimal digits after \\u",
}


def decode(line: bytes) -> str:
    """Return the text of a line, or raise Refused (bad_utf8) with the byte offset of the error."""
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Refused(
            Code.BAD_UTF8,
            f"The line is not valid UTF-8 (byte 0x{line[error.start]:02x} at offset "
            f"{error.start:,}). Save the file as UTF-8.",
        ) from None


def parse(text: str) -> Any:
    """Return the JSON value of a text. Raise Refused if it is malformed or ambiguous."""
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise Refused(Code.MALFORMED_JSON, _sentence(text, error), column=error.pos + 1) from None
    except RecursionError:
        raise Refused(Code.TOO_DEEP, "The JSON is nested too deeply. Use fewer levels.") from None
    except ValueError:  # Python does not convert integers with thousands of digits
        raise Refused(Code.BAD_NUMBER, "A number has too many digits. Put it in quotes.") from None


def _sentence(text: str, error: json.JSONDecodeError) -> str:
    if error.pos >= len(text.rstrip()):
        reason = "the line ends before the JSON does; put each example on one line"
    else:
        found = (reason for start, reason in REASONS.items() if error.msg.startswith(start))
        reason = next(found, error.msg)
    return f"The JSON is malformed at column {error.pos + 1:,}: {reason}."


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        (key, _), *_ = Counter(key for key, _ in pairs).most_common(1)
        raise Refused(Code.DUPLICATE_KEY, f"The key {quoted(key)} occurs more than once. Keep one.")
    return value


def _finite(literal: str) -> float:
    number = float(literal)
    if not math.isfinite(number):
        raise Refused(Code.BAD_NUMBER, f"{quoted(literal)} is too large. Put it in quotes.")
    return number


def _constant(literal: str) -> NoReturn:
    raise Refused(Code.BAD_NUMBER, f"{literal} is not a JSON value. Use null or a number.")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique, parse_float=_finite, parse_constant=_constant
)
