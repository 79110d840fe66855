"""Excerpts of refused lines."""

from __future__ import annotations

import json
from typing import Any

import pytest

from domain.datasets.validation_report import Excerpt
from services.datasets.excerpts import SHOWN
from tests.services.datasets.uploads import ANSWER, ASSISTANT, USER, chat, jsonl, user, validated


def excerpt(line: bytes) -> Excerpt:
    """Return the excerpt of the only error of a file with one line."""
    report, _, _ = validated(line)
    (problem,) = report.errors
    assert problem.line == 1
    assert problem.excerpt is not None
    return problem.excerpt


def marked(shown: Excerpt) -> str:
    return shown.text[shown.start : shown.end]


def test_a_short_line_is_shown_with_its_wrong_character() -> None:
    shown = excerpt(b'{"messages" []}\n')
    assert (shown.text, shown.column, shown.goes_on) == ('{"messages" []}', 1, False)
    assert (shown.start, marked(shown)) == (12, "[")


def test_a_long_line_is_cut_around_the_problem() -> None:
    line = b'{"a": "' + b"x" * 1000 + b'" oops, "b": "' + b"y" * 1000 + b'"}\n'
    shown = excerpt(line)
    assert len(shown.text) == SHOWN
    assert marked(shown) == "o"
    assert line[shown.column - 1 :].decode().startswith(shown.text)
    assert shown.goes_on


@pytest.mark.parametrize(
    ("example", "wrong"),
    [
        (chat(USER, {"role": "bot", "content": "Hi"}), {"role": "bot", "content": "Hi"}),
        ({"tools": [1, {"a": []}], **chat(USER, ASSISTANT, user(" "))}, user(" ")),
        (chat(ASSISTANT, USER), ASSISTANT),
        (chat(USER, ANSWER, ASSISTANT), ANSWER),
        ({"completion": [{"role": "x", "content": "y"}], "prompt": [USER]}, {"role": "x"}),
        ({"prompt": "Hello?", "completion": " "}, " "),
    ],
)
def test_the_wrong_message_is_marked(example: dict[str, Any], wrong: Any) -> None:
    found = json.loads(marked(excerpt(jsonl(example))))
    assert found == wrong or found.items() >= wrong.items()


def test_an_error_of_the_whole_example_marks_nothing() -> None:
    shown = excerpt(jsonl(chat(USER)))
    assert marked(shown) == ""
    assert json.loads(shown.text) == chat(USER)


def test_invalid_bytes_are_marked_at_their_position() -> None:
    shown = excerpt('{"a": "é'.encode() + b'\xe9"}\n')
    assert (shown.text, marked(shown)) == ('{"a": "é\ufffd"}', "\ufffd")


def test_a_byte_order_mark_shifts_no_column() -> None:
    shown = excerpt("\ufeff[}\n".encode())
    assert (shown.text, marked(shown)) == ("[}", "}")


def test_invisible_characters_are_shown_and_bidi_controls_are_not() -> None:
    assert excerpt(b'{"a": "x\ty"}\n').text == '{"a": "x␉y"}'
    assert excerpt('{"a": "\u202e👩\u200d🚀" b}\n'.encode()).text == '{"a": "\ufffd👩\u200d🚀" b}'


def test_a_too_long_line_is_shown_from_its_start() -> None:
    shown = excerpt(b'{"a": "' + b"x" * 200_000 + b'"}\n')
    assert shown.text == '{"a": "' + "x" * (SHOWN - 7)
    assert shown.goes_on
