"""Filters of examples, which make a new version of a dataset in one pass."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

from pydantic_core import to_json

from domain.datasets.filters import Filters, PersonalData
from extensions.quality.worker.contamination import ValidationIndex
from extensions.quality.worker.languages import UNKNOWN, Languages
from extensions.quality.worker.masking import masked
from extensions.quality.worker.personal_data import Recognizers
from infrastructure.datasets.preference_columns import PREFERRED, REJECTED
from services.text_quality.answers import findings_of
from services.text_quality.near_duplicates import TextIndex
from services.text_quality.texts import (
    dialogue_of,
    last_answer,
    messages_of,
    said_in,
    texts_of,
    with_texts,
)


class Filtering:
    """Applies filters to normalized examples, in order.

    The result depends only on the examples and the filters. `removed` counts the removed examples
    by the filter that removed them, and `masked` those that were changed.
    """

    def __init__(self, filters: Filters, validation: Iterable[bytes] = ()) -> None:
        """Prepare the filters. `validation` has the examples of the dataset `contaminates`."""
        self._filters = filters
        self._validation = (
            ValidationIndex(validation, similarity=filters.similarity)
            if filters.contaminates
            else None
        )
        self._index = TextIndex(filters.similarity) if filters.near_duplicates else None
        self._languages = Languages() if filters.languages else None
        finds_personal = filters.personal_data is not PersonalData.KEEP
        self._recognizers = Recognizers() if finds_personal else None
        self._number = 0
        self.removed = Counter[str]()
        self.masked = 0

    def __call__(self, content: bytes) -> bytes | None:
        example: dict[str, Any] = json.loads(content)
        self._number += 1
        reason = self._reason(example)
        if reason is not None:
            self.removed[reason] += 1
            return None
        if self._filters.personal_data is PersonalData.MASK:
            return self._without_personal_data(content, example)
        return content

    def _reason(self, example: dict[str, Any]) -> str | None:
        """Return the filter that removes an example, or None. Near-duplicates come last."""
        filters = self._filters
        characters = sum(len(message["content"]) for message in messages_of(example))
        if filters.min_characters is not None and characters < filters.min_characters:
            return "min_characters"
        if filters.max_characters is not None and characters > filters.max_characters:
            return "max_characters"
        if filters.answers and set(filters.answers) & set(findings_of(last_answer(example))):
            return "answers"
        dialogue = dialogue_of(example)
        if self._languages is not None:
            language = self._languages.of("\n".join(said_in(example)))
            if language != UNKNOWN and language not in filters.languages:
                return "languages"
        if filters.personal_data is PersonalData.REMOVE and self._has_personal_data(example):
            return "personal_data"
        if self._validation is not None and self._validation.find(dialogue) is not None:
            return "contaminates"
        if self._index is not None and self._index.find_or_add(self._number, dialogue) is not None:
            return "near_duplicates"
        return None

    def _has_personal_data(self, example: dict[str, Any]) -> bool:
        assert self._recognizers is not None
        kinds = self._filters.personal_kinds
        return any(
            span.kind in kinds
            for text in texts_of(example)
            for span in self._recognizers.spans(text)
        )

    def _without_personal_data(self, content: bytes, example: dict[str, Any]) -> bytes | None:
        """Mask an example. Return None for a pair whose answers differ only in masked data."""
        changed = with_texts(example, self._mask)
        if PREFERRED in changed and changed[PREFERRED] == changed[REJECTED]:
            self.removed["personal_data"] += 1
            return None
        written = to_json(changed)
        self.masked += written != content
        return written

    def _mask(self, text: str) -> str:
        assert self._recognizers is not None
        return masked(text, self._recognizers.spans(text), self._filters.personal_kinds)
