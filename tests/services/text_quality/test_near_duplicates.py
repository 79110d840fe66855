"""Near-duplicates of examples in several languages."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest

from domain.datasets.filters import DEFAULT_SIMILARITY
from services.text_quality.near_duplicates import Match, TextIndex
from services.text_quality.texts import dialogue_of

WORDS = {
    "English": ("order", "parcel", "shirt", "invoice", "refund", "address", "size", "colour"),
    "Chinese": ("订单", "包裹", "衬衫", "发票", "退款", "地址", "尺码", "银行卡", "什么时候"),
    "Japanese": ("注文", "荷物", "シャツ", "請求書", "返金", "住所", "サイズ", "ですか", "いつ"),
}


def examples(language: str) -> Iterator[dict[str, Any]]:
    """Yield chats, of which some vary an earlier one in a word or two."""
    chance = random.Random(language)
    space = " " if language == "English" else ""
    earlier: list[list[str]] = []
    for number in range(400):
        if earlier and number % 3:
            words = list(chance.choice(earlier))
            for _ in range(chance.randint(1, 4)):
                words[chance.randrange(len(words))] = chance.choice(WORDS[language])
        else:
            words = [chance.choice(WORDS[language]) for _ in range(40)]
        earlier.append(words)
        yield {
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": space.join(words[:15])},
                {"role": "assistant", "content": space.join(words[15:])},
            ]
        }


@pytest.mark.parametrize("language", WORDS)
def test_a_lower_similarity_finds_more(language: str) -> None:
    texts = [str(each["messages"]) for each in examples(language)]
    counts: list[int] = []
    for similarity in (0.7, 0.6, 0.5):
        index = TextIndex(similarity)
        found = [index.find_or_add(number, text) for number, text in enumerate(texts)]
        counts.append(sum(each is not None for each in found))
    assert counts == sorted(counts)
    assert counts[0] > 0


def test_equal_requests_with_different_tool_calls_are_no_duplicates() -> None:
    index = TextIndex(DEFAULT_SIMILARITY, 10)
    calls = [
        ("cancel_order", {"order": 7, "reason": "late"}),
        ("find_customer", {"name": "Ada"}),
        ("escalate", {}),
        ("cancel_order", {"reason": "late", "order": 7}),
    ]
    matches = [
        index.find_or_add(number, dialogue_of(calling(name, arguments)))
        for number, (name, arguments) in enumerate(calls, 1)
    ]
    assert matches == [None, None, None, Match(1, 1.0)]


def calling(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    call = {"type": "function", "function": {"name": name, "arguments": arguments}}
    asked = {"role": "user", "content": "Cancel my order please"}
    return {"messages": [asked, {"role": "assistant", "content": "", "tool_calls": [call]}]}
