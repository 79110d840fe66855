"""Findings as they are collected for a report."""

from __future__ import annotations

from typing import NamedTuple

from domain.datasets.findings import Finding
from extensions.quality.domain.quality_report import Findings, Sample

LINES_KEPT = 1_000
SAMPLES_KEPT = 10


class _Kind:
    """The findings of one kind."""

    def __init__(self) -> None:
        self.examples = self.occurrences = 0
        self.lines: list[int] = []
        self.samples: list[Sample] = []


class Found(NamedTuple):
    """The place of a finding: the number of the example and its line, both from 1."""

    example: int
    line: int


class Collected:
    """The number of findings by kind, and the first of each."""

    def __init__(self) -> None:
        self._kinds: dict[Finding, _Kind] = {}

    def wants_sample(self, kind: Finding) -> bool:
        """Return True if a further sample of a kind is kept."""
        known = self._kinds.get(kind)
        return known is None or len(known.samples) < SAMPLES_KEPT

    def add(
        self, kind: Finding, where: Found, count: int = 1, sample: Sample | None = None
    ) -> None:
        """Add an example with `count` findings of a kind."""
        known = self._kinds.setdefault(kind, _Kind())
        known.examples += 1
        known.occurrences += count
        if len(known.lines) < LINES_KEPT:
            known.lines.append(where.line)
        if sample is not None and len(known.samples) < SAMPLES_KEPT:
            known.samples.append(sample)

    def result(self) -> tuple[Findings, ...]:
        """Return the findings by kind, in the order of Finding."""
        return tuple(
            Findings(
                kind=kind,
                examples=known.examples,
                occurrences=known.occurrences,
                lines=tuple(known.lines),
                samples=tuple(known.samples),
            )
            for kind in Finding
            if (known := self._kinds.get(kind)) is not None
        )
