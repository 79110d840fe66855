"""Comparison of a training dataset with a validation dataset: examples that are in both."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable

from domain.datasets.quality_report import Contamination, Sample
from services.datasets.line_numbers import LineNumbers
from services.datasets.quality.near_duplicates import Match, TextIndex
from services.datasets.quality.reporting import LINES_KEPT, SAMPLES_KEPT
from services.datasets.quality.texts import dialogue_of


class ValidationIndex:
    """The examples of a validation dataset, to find training examples that equal one or nearly do.

    A large dataset is compared up to a maximum number of examples.
    """

    def __init__(self, examples: Iterable[bytes]) -> None:
        self.examples = 0
        self._index = TextIndex()
        for content in examples:
            self.examples += 1
            self._index.find_or_add(self.examples, dialogue_of(json.loads(content)))

    def find(self, dialogue: str) -> Match | None:
        """Return the validation example that a text resembles, by its number from 1."""
        return self._index.find(dialogue)


def contamination(
    training: Iterable[bytes],
    validation: Iterable[bytes],
    lines: LineNumbers,
    validation_lines: LineNumbers,
    *,
    unit: str,
    seconds: float,
) -> Contamination:
    """Compare the examples of two normalized files. Stop after `seconds` of computing time.

    `lines` are those of both uploads. The samples show no text.
    """
    limit = time.process_time() + seconds
    index = ValidationIndex(validation)
    compared = exact = near = 0
    affected: set[int] = set()
    found: list[int] = []
    samples: list[Sample] = []
    stopped = None
    for content in training:
        if time.process_time() > limit:
            stopped = "time"
            break
        compared += 1
        match = index.find(dialogue_of(json.loads(content)))
        if match is None:
            continue
        exact += match.is_exact
        near += not match.is_exact
        affected.add(match.key)
        line = lines.line_of(compared)
        if len(found) < LINES_KEPT:
            found.append(line)
        if len(samples) < SAMPLES_KEPT:
            samples.append(
                Sample(
                    line=line,
                    example=compared,
                    excerpt="",
                    like_line=validation_lines.line_of(match.key),
                    similarity=round(match.similarity, 2),
                )
            )
    return Contamination(
        unit=unit,
        examples=compared,
        validation_examples=index.examples,
        exact=exact,
        near=near,
        affected=len(affected),
        lines=tuple(found),
        samples=tuple(samples),
        stopped=stopped,
    )
