"""Text is shown in whole characters, and without stop sequences."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.serving.response_text import ResponseText
from tests.builders.tiny_model import make_tiny_tokenizer

TOKENIZER = make_tiny_tokenizer()


def tokens_of(text: str) -> list[int]:
    return TOKENIZER(text, add_special_tokens=False)["input_ids"]


def shown(text: str, *stops: str) -> tuple[list[str], bool]:
    """The deltas of some tokens, and True if a stop sequence ended them."""
    answer, pieces = ResponseText(TOKENIZER, stops), []
    for token in tokens_of(text):
        pieces.append(answer.add(token))
        if answer.stopped:
            break
    return [*pieces, answer.end()], answer.stopped


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
def test_the_deltas_add_up_to_the_text(text: str) -> None:
    pieces, stopped = shown(text)
    assert "".join(pieces) == text
    assert "\ufffd" not in text or not stopped


def test_a_character_of_several_tokens_is_shown_when_complete() -> None:
    pieces, _ = shown("é🎉")
    assert [piece for piece in pieces if piece] == ["é", "🎉"]


def test_an_incomplete_character_at_the_end_is_shown() -> None:
    answer = ResponseText(TOKENIZER, ())
    assert answer.add(tokens_of("é")[0]) == ""
    assert answer.end() == "\ufffd"


@pytest.mark.parametrize(
    ("text", "stops", "expected"),
    [
        ("Hello! How are you", ["How"], "Hello! "),
        ("abcabd", ["abd"], "abc"),
        ("aaab", ["aab"], "a"),
        ("ab", ["abc"], "ab"),
        ("one, two", ["two", ", "], "one"),
        ("🎉é!", ["é"], "🎉"),
    ],
)
def test_a_possible_start_of_a_stop_sequence_is_held_back(
    text: str, stops: list[str], expected: str
) -> None:
    pieces, stopped = shown(text, *stops)
    assert "".join(pieces) == expected
    assert stopped == any(stop in text for stop in stops)


@given(st.text("abc", max_size=20), st.lists(st.text("abc", min_size=1, max_size=4), max_size=3))
def test_a_stop_sequence_is_found_across_tokens(text: str, stops: list[str]) -> None:
    pieces, stopped = shown(text, *stops)
    whole = "".join(pieces)
    assert text.startswith(whole)
    assert not any(stop in whole for stop in stops)
    assert stopped == any(stop in text for stop in stops)
