"""Excerpts of rejected lines around the error, which are short and safe to display."""

from __future__ import annotations

import json

from domain.datasets.validation_report import Excerpt
from services.datasets.report import Code, Refused

SHOWN = 240  # maximum number of characters in an excerpt
BEFORE = 80  # maximum number of characters before the error
JOINERS = "\u200c\u200d"  # not printable alone, but used in words and emoji

_VALUE = json.JSONDecoder()

Span = tuple[int, int]  # start and end index in a text


def excerpt_of(line: bytes, error: Refused) -> Excerpt:
    """Return the part of a rejected line around the error. Mark the error if its place is known."""
    text = line.decode("utf-8", errors="replace")
    start, end = _span(text, line, error)
    first = max(0, min(start - BEFORE, len(text) - SHOWN))
    last = min(len(text), first + SHOWN)
    return Excerpt(
        text="".join(map(_visible, text[first:last])),
        column=first + 1,
        goes_on=last < len(text),
        start=min(start, last) - first,
        end=min(end, last) - first,
    )


def _span(text: str, line: bytes, error: Refused) -> Span:
    """Return the span of the error in the line; (0, 0) if unknown."""
    if error.code is Code.BAD_UTF8:
        try:
            line.decode("utf-8")
        except UnicodeDecodeError as wrong:
            at = len(line[: wrong.start].decode("utf-8"))
            return at, at + 1
    if error.column is not None:
        return error.column - 1, error.column
    if error.position is not None:
        return _message_span(text, error.position)
    return 0, 0


def _message_span(text: str, position: int) -> Span:
    """Return the span of the message at `position`, counted from 1; (0, 0) if unknown."""
    try:
        fields = _fields(text)
        spans = [
            span
            for key in ("messages", "prompt", "completion")
            if key in fields
            for span in _items(text, fields[key])
        ]
        return spans[position - 1]
    except (ValueError, IndexError, RecursionError):
        return 0, 0


def _fields(text: str) -> dict[str, Span]:
    """Return the spans of a JSON object's values by key, or raise ValueError or IndexError."""
    fields: dict[str, Span] = {}
    at = _after_space(text, _after_space(text, 0) + 1)
    while text[at] != "}":
        key, at = _VALUE.raw_decode(text, at)
        start = _after_space(text, _after_space(text, at) + 1)
        _, end = _VALUE.raw_decode(text, start)
        fields[key] = (start, end)
        at = _next(text, end)
    return fields


def _items(text: str, value: Span) -> list[Span]:
    """Return the spans of a JSON list's items. For another value, return only its own span."""
    if text[value[0]] != "[":
        return [value]
    spans: list[Span] = []
    at = _after_space(text, value[0] + 1)
    while text[at] != "]":
        _, end = _VALUE.raw_decode(text, at)
        spans.append((at, end))
        at = _next(text, end)
    return spans


def _next(text: str, end: int) -> int:
    at = _after_space(text, end)
    return _after_space(text, at + 1) if text[at] == "," else at


def _after_space(text: str, at: int) -> int:
    while text[at] in " \t\n\r":
        at += 1
    return at


def _visible(char: str) -> str:
    """Return the character. Replace it if it is invisible or changes the text direction."""
    if char.isprintable() or char in JOINERS:
        return char
    code = ord(char)
    if code < 0x20:
        return chr(0x2400 + code)
    return "\u2421" if code == 0x7F else "\ufffd"
