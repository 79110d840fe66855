"""Filters of near-duplicates by similarity."""

from __future__ import annotations

from domain.datasets.filters import Filters
from extensions.quality.worker.filtering import Filtering
from tests.builders.planted import Writer, line_of


def test_a_lower_similarity_lets_a_filter_remove_more() -> None:
    writer = Writer(22)
    chats = [writer.chat() for _ in range(40)]
    lines = [line_of(chat) for chat in [*chats, *(writer.edited(each, 0.2) for each in chats)]]

    def kept(similarity: float) -> int:
        filtering = Filtering(Filters(near_duplicates=True, similarity=similarity))
        return sum(filtering(line) is not None for line in lines)

    assert 40 <= kept(0.5) <= 42 < 60 <= kept(0.7) <= kept(1) == 80
