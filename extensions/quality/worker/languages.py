"""The language of a text."""

from __future__ import annotations

from py3langid.langid import MODEL_FILE, LanguageIdentifier

UNKNOWN = "und"
"""Code of an unknown language (ISO 639-2)."""

LEAST_LETTERS = 20
LEAST_PROBABILITY = 0.6
MOST_CHARACTERS = 1_000
"""Characters at the start of a text that decide."""


class Languages:
    """A detector of languages. Its model is a part of py3langid, so the same text gives the same
    language on every machine."""

    def __init__(self) -> None:
        self._identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)

    def of(self, text: str) -> str:
        """Return a language (ISO 639-1), or UNKNOWN for few letters or a low probability."""
        start = text[:MOST_CHARACTERS]
        if sum(map(str.isalpha, start)) < LEAST_LETTERS:
            return UNKNOWN
        code, probability = self._identifier.classify(start)
        return code if probability >= LEAST_PROBABILITY else UNKNOWN
