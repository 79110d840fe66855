"""Answers of a model that are usable as examples, and judgements."""

from __future__ import annotations

import json

import pytest

from extensions.synthesis.process.answers import Unusable, read_chat, read_score

LONGEST = {"user": 40, "assistant": 120}


def chat(user: str, assistant: str) -> str:
    return json.dumps({"turns": [{"user": user, "assistant": assistant}]})


@pytest.mark.parametrize(
    ("user", "assistant"),
    [
        ("Is it open?", "Yes"),
        ("営業時間は\uff1f", "10時です。"),
        ("How do I return a shirt that is too small?", "Send it back within 30 days."),
        ("q" * 39 + "?", "a" * 119 + "."),
        ("Say it.", "a" * 130 + '."'),
    ],
)
def test_a_chat_is_usable(user: str, assistant: str) -> None:
    assert read_chat(chat(user, assistant), 1, LONGEST) == [{"user": user, "assistant": assistant}]


@pytest.mark.parametrize(
    ("user", "assistant", "problem"),
    [
        ("...", "It is open.", "neither letters nor digits"),
        ("Is it open?", "💵💵", "neither letters nor digits"),
        ("Jack  Smith", "jack smith", "repeats its question"),
        ("q" * 40, "It is open.", "cut off"),
        ("Is it open?", "a" * 120, "cut off"),
        ("Is it open?", "It is open on every day of the week, " * 9, "cut off"),
        ("Is it open?", "  ", "neither letters nor digits"),
    ],
)
def test_a_chat_that_no_training_needs_is_not_usable(
    user: str, assistant: str, problem: str
) -> None:
    with pytest.raises(Unusable, match=problem):
        read_chat(chat(user, assistant), 1, LONGEST)


def test_texts_of_a_model_without_a_grammar_may_have_any_length() -> None:
    assert read_chat(chat("q" * 40, "a" * 120), 1, None)


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ('{"helpful": "yes", "score": 8}', 8),
        ('```json\n{"helpful": "yes", "score": 8}\n```', 8),
        ('{"helpful": "no", "score": 8}', 1),
        ('{"helpful": "yes", "score": 11}', None),
        ('{"score": 8}', None),
        ("8", None),
        ('{"helpful": "\\ud800", "score": 3}', None),
        (f'{{"helpful": "yes", "score": {"[" * 400}{"]" * 400}}}', None),
    ],
)
def test_a_judgement_has_a_score(text: str, score: int | None) -> None:
    assert read_score(text) == score
