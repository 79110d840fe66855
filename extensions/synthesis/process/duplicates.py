"""Detection of examples that repeat others, exactly or nearly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from services.text_quality.near_duplicates import MOST_TEXTS, TextIndex
from services.text_quality.texts import dialogue_of


class SeenExamples:
    """The examples so far.

    The comparison is that of the quality report of a dataset. With a similarity of at most its
    threshold, the report finds no near-duplicates among the examples.
    """

    def __init__(self, similarity: float) -> None:
        self._index = TextIndex(similarity, MOST_TEXTS)
        self._count = 0

    def repeats(self, messages: Sequence[Mapping[str, Any]]) -> bool:
        """Return True if an example repeats another one."""
        return self._index.find(_dialogue(messages)) is not None

    def add(self, messages: Sequence[Mapping[str, Any]]) -> bool:
        """Add an example. Return False, and add nothing, if it repeats another one."""
        if self._index.find_or_add(self._count, _dialogue(messages)) is not None:
            return False
        self._count += 1
        return True


def _dialogue(messages: Sequence[Mapping[str, Any]]) -> str:
    return dialogue_of({"messages": messages})
