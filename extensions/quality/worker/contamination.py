"""Comparison of a training dataset with a validation dataset: examples that are in both."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import NamedTuple

from domain.datasets.filters import DEFAULT_SIMILARITY
from extensions.quality.domain.quality_report import Contamination, Sample
from extensions.quality.worker.computing_time import ComputingTime, OutOfTime
from extensions.quality.worker.reporting import LINES_KEPT, SAMPLES_KEPT
from services.datasets.line_numbers import LineNumbers
from services.text_quality.near_duplicates import Match, TextIndex
from services.text_quality.texts import dialogue_of

INDEX_SHARE = 0.5
"""Share of the computing time in which the validation dataset is indexed."""


class ValidationIndex:
    """Examples of a validation dataset, up to a number and a time, to find equal ones."""

    def __init__(
        self,
        examples: Iterable[bytes],
        seconds: float | None = None,
        similarity: float = DEFAULT_SIMILARITY,
    ) -> None:
        """Index examples, the lines of a normalized file, for `seconds` of computing time."""
        self.examples = 0
        self.is_out_of_time = False
        self._index = TextIndex(similarity)
        time = None if seconds is None else ComputingTime(seconds)
        try:
            for content in examples:
                if self._index.is_full:
                    break
                if time is not None:
                    time.check()
                self._index.find_or_add(self.examples + 1, dialogue_of(json.loads(content)))
                self.examples += 1
        except OutOfTime:
            self.is_out_of_time = True

    def find(self, dialogue: str) -> Match | None:
        """Return the validation example that a text resembles, by its number from 1."""
        return self._index.find(dialogue)


class Compared(NamedTuple):
    """A dataset to compare: the lines of its normalized file, and those of the upload."""

    examples: Iterable[bytes]
    lines: LineNumbers
    total: int


def contamination(
    training: Compared, validation: Compared, *, unit: str, seconds: float
) -> Contamination:
    """Compare the examples of two datasets, for `seconds` of computing. Samples show no text."""
    time = ComputingTime(seconds)
    index = ValidationIndex(validation.examples, INDEX_SHARE * seconds)
    compared = exact = near = 0
    affected: set[int] = set()
    found: list[int] = []
    samples: list[Sample] = []
    stopped = "time" if index.is_out_of_time else None
    for content in training.examples:
        try:
            time.check()
        except OutOfTime:
            stopped = "time"
            break
        compared += 1
        match = index.find(dialogue_of(json.loads(content)))
        if match is None:
            continue
        exact += match.is_exact
        near += not match.is_exact
        affected.add(match.key)
        line = training.lines.line_of(compared)
        if len(found) < LINES_KEPT:
            found.append(line)
        if len(samples) < SAMPLES_KEPT:
            samples.append(
                Sample(
                    line=line,
                    example=compared,
                    excerpt="",
                    like_line=validation.lines.line_of(match.key),
                    similarity=round(match.similarity, 2),
                )
            )
    return Contamination(
        unit=unit,
        examples=compared,
        total=training.total,
        validation_examples=index.examples,
        validation_total=validation.total,
        exact=exact,
        near=near,
        affected=len(affected),
        lines=tuple(found),
        samples=tuple(samples),
        stopped=stopped,
    )
