"""Searches for near-duplicates by similarity, and among many texts that share a part."""

from __future__ import annotations

import pytest

from services.text_quality.near_duplicates import TextIndex
from tests.builders.planted import Writer


@pytest.mark.parametrize(
    ("similarity", "rate", "least", "most"),
    [
        (0.5, 0.2, 0.97, 1),
        (0.7, 0.2, 0, 0.3),
        (0.7, 0.1, 0.95, 1),
        (0.9, 0.1, 0, 0.1),
        (1, 0, 1, 1),
    ],
)
def test_the_similarity_decides_which_copies_count(
    similarity: float, rate: float, least: float, most: float
) -> None:
    writer = Writer(21)
    chats = [writer.chat() for _ in range(200)]
    index = TextIndex(similarity)
    assert not any(index.find_or_add(at, " ".join(chat)) for at, chat in enumerate(chats))
    copies = [" ".join(writer.edited(chat, rate)) for chat in chats]
    found = [index.find(copy) for copy in copies]
    right = sum(match is not None and match.key == at for at, match in enumerate(found))
    assert least <= right / len(chats) <= most


def test_texts_that_share_a_part_are_compared_with_a_limited_number() -> None:
    writer = Writer(23)
    template = writer.text(12)
    texts = [f"{template} {writer.text(10)}" for _ in range(100)]
    index = TextIndex(most_candidates=10)
    added = sum(index.find_or_add(at, text) is None for at, text in enumerate(texts))
    assert index.crowded > 20
    assert len(index._sketches) < added
    assert all(map(index.find, texts))
    assert index.find(writer.text(12)) is None
