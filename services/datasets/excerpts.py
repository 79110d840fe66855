"""The part of a line that an error is about, short enough for a report and safe to show."""

from __future__ import annotations

import json

from services.datasets.report import Code, Excerpt, Refused

SHOWN = 240  # characters of a line at most
BEFORE = 80  # of them before the problem
JOINERS = "\u200c\u200d"  # not printable on their own, and part of words and emoji

_VALUE = json.JSONDecoder()

Span = tuple[int, int]  # characters of a text: from, and up to but not with


def excerpt_of(line: bytes, error: Refused) -> Excerpt:
    """What of a refused line shows the error, with that part marked, if it is known."""
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
    """What of the line is wrong; (0, 0) if that is not known."""
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
    """Where a message of an example is, counted from 1 as validation counts them."""
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
    """The keys of a JSON object, and where their values are; raises ValueError, IndexError."""
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
    """Where the items of a JSON list are; a value that is no list is the only one."""
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
    """Where, after a value, the next begins, or the bracket is that closes them."""
    at = _after_space(text, end)
    return _after_space(text, at + 1) if text[at] == "," else at


def _after_space(text: str, at: int) -> int:
    while text[at] in " \t\n\r":
        at += 1
    return at


def _visible(char: str) -> str:
    """One character in place of one that is not seen, or that turns the text around."""
    if char.isprintable() or char in JOINERS:
        return char
    code = ord(char)
    if code < 0x20:
        return chr(0x2400 + code)
    return "\u2421" if code == 0x7F else "\ufffd"
