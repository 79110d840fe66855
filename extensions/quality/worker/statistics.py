"""Statistics of the examples of a dataset: lengths, turns, system prompts and languages."""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections import Counter
from itertools import accumulate
from typing import Any

from domain.training.token_lengths import BOUNDS
from extensions.quality.domain.quality_report import Bar, Distribution, Language, Statistics
from extensions.quality.worker.languages import UNKNOWN
from services.datasets.digests import DIGEST_BYTES, DigestSet
from services.text_quality.texts import last_answer, messages_of

MOST_PROMPTS = 1_000_000
"""Maximum number of distinct system prompts that are counted."""


class _Lengths:
    """Counts of examples by length, in the buckets of token lengths."""

    def __init__(self) -> None:
        self._counts = Counter[int]()
        self._total = 0
        self._least: int | None = None
        self._most = 0

    def add(self, length: int) -> None:
        self._counts[bisect_left(BOUNDS, length)] += 1
        self._total += length
        self._least = length if self._least is None else min(self._least, length)
        self._most = max(self._most, length)

    def median(self) -> int:
        """Return the upper bound of the bucket with the median; 0 without lengths."""
        return self._quantile(0.5)

    def distribution(self) -> Distribution:
        buckets = sorted(self._counts)
        return Distribution(
            least=self._least or 0,
            median=self._quantile(0.5),
            p95=self._quantile(0.95),
            most=self._most,
            total=self._total,
            bars=tuple(
                Bar(up_to=self._bound(bucket), examples=self._counts[bucket]) for bucket in buckets
            ),
        )

    def _bound(self, bucket: int) -> int:
        return min(BOUNDS[bucket], self._most) if bucket < len(BOUNDS) else self._most

    def _quantile(self, share: float) -> int:
        buckets = sorted(self._counts)
        sums = list(accumulate(self._counts[bucket] for bucket in buckets))
        if not sums:
            return 0
        return self._bound(buckets[bisect_left(sums, share * sums[-1])])


class Counting:
    """The statistics of the examples so far."""

    def __init__(self) -> None:
        self._characters, self._messages, self._answers = _Lengths(), _Lengths(), _Lengths()
        self._with_system = self._multi_turn = self._with_calls = self._assistant = 0
        self._prompts, self._prompt_digests = 0, DigestSet()
        self._languages = Counter[str]()

    def add(self, example: dict[str, Any], language: str) -> int:
        """Add an example in a language. Return its number of characters."""
        messages = messages_of(example)
        prompt = next((each["content"] for each in messages if each["role"] == "system"), None)
        digest = None if prompt is None else _digest(prompt)  # first, because it needs memory
        lengths = [len(message["content"]) for message in messages]
        characters = sum(lengths)
        roles = [message["role"] for message in messages]
        self._characters.add(characters)
        self._messages.add(len(messages))
        if (answer := last_answer(example)) is not None:
            self._answers.add(len(answer))
        self._assistant += sum(
            length for length, role in zip(lengths, roles, strict=True) if role == "assistant"
        )
        self._multi_turn += roles.count("user") > 1
        self._with_calls += any("tool_calls" in message for message in messages)
        if digest is not None:
            self._with_system += 1
            if self._prompts < MOST_PROMPTS:
                self._prompts += self._prompt_digests.add(digest)
        self._languages[language] += 1
        return characters

    @property
    def median_characters(self) -> int:
        """Approximate median of the examples' characters."""
        return self._characters.median()

    @property
    def main_language(self) -> str | None:
        """The most common known language, the first of several; None if no language is known."""
        known = [code for code in self._languages if code != UNKNOWN]
        return min(known, key=lambda code: (-self._languages[code], code), default=None)

    def result(self) -> Statistics:
        """Return the statistics."""
        characters = self._characters.distribution()
        return Statistics(
            characters=characters,
            messages=self._messages.distribution(),
            answer_characters=self._answers.distribution(),
            with_system_prompt=self._with_system,
            distinct_system_prompts=self._prompts,
            multi_turn=self._multi_turn,
            with_tool_calls=self._with_calls,
            assistant_share=round(self._assistant / characters.total, 4) if characters.total else 0,
            languages=tuple(
                Language(code=code, examples=count)
                for code, count in sorted(self._languages.items(), key=lambda i: (-i[1], i[0]))
            ),
        )


def _digest(prompt: str) -> bytes:
    return hashlib.blake2b(prompt.encode(), digest_size=DIGEST_BYTES).digest()
