"""Analysis of the examples of a valid dataset, in one pass with bounded memory and time."""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from domain.datasets.findings import Finding
from domain.estimating.held_out import held_out
from domain.training.hyperparameters import Hyperparameters
from extensions.quality.domain.quality_report import QualityReport, Sample
from extensions.quality.worker.computing_time import ComputingTime, OutOfTime
from extensions.quality.worker.languages import UNKNOWN, Languages
from extensions.quality.worker.masking import change_of, excerpt, start_of
from extensions.quality.worker.personal_data import Recognizers, Span
from extensions.quality.worker.reporting import Collected, Found
from extensions.quality.worker.statistics import Counting
from services.datasets.line_numbers import LineNumbers
from services.text_quality.answers import findings_of
from services.text_quality.near_duplicates import Match, TextIndex
from services.text_quality.texts import dialogue_of, last_answer, said_in, texts_of

LONG_TIMES = 20
"""An example is unusually long if it has more than this multiple of the median characters."""

LONG_CHARACTERS = 10_000
"""Shorter examples are never unusually long."""

PROGRESS_EXAMPLES = 1_000

SpansOf = Mapping[str, Sequence[Span]]
"""The personal data in each text of an example."""


class Analysis:
    """The state of an analysis. Examples are numbered from 1."""

    def __init__(self, lines: LineNumbers, unit: str, seconds: float) -> None:
        """Prepare an analysis that stops after `seconds` of computing time."""
        self._lines, self._unit = lines, unit
        self._time = ComputingTime(seconds)
        self._languages, self._recognizers = Languages(), Recognizers(self._time.check)
        self._index = TextIndex()
        self._counting, self._collected = Counting(), Collected()
        self._codes: dict[str, int] = {}
        self._language = array("H")  # of each example, as its position in _codes
        self._characters = array("I")
        self._first = array("I")  # example of each group of near-duplicates
        self._compared = 0

    def run(
        self,
        examples: Iterable[bytes],
        total: int,
        on_progress: Callable[[int], object] = lambda _: None,
    ) -> QualityReport:
        """Analyze examples, the lines of a normalized file, and return the report.

        `total` is their number. If the time or the memory does not suffice, the report has the
        examples before.
        """
        stopped = None
        try:
            for content in examples:
                self.add(json.loads(content))
                if len(self._first) % PROGRESS_EXAMPLES == 0:
                    on_progress(len(self._first))
        except OutOfTime:
            stopped = "time"
        except MemoryError:
            stopped = "memory"
        return self.report(total, stopped)

    def add(self, example: dict[str, Any]) -> None:
        """Analyze the next example, which does not count after OutOfTime or MemoryError."""
        number = len(self._first) + 1
        where = Found(number, self._lines.line_of(number))
        dialogue = dialogue_of(example)
        language = self._languages.of("\n".join(said_in(example)))
        spans = {text: self._recognizers.spans(text) for text in texts_of(example)}
        is_full = self._index.is_full
        match = self._index.find_or_add(number, dialogue)
        characters = self._counting.add(example, language)
        # What follows needs little memory, so the example counts in all of these or in none.
        self._first.append(number if match is None else self._first[match.key - 1])
        self._characters.append(min(characters, 2**32 - 1))
        self._language.append(self._codes.setdefault(language, len(self._codes)))
        self._compared += not is_full
        self._personal_data(example, spans, where)
        if match is not None:
            self._collect(Finding.NEAR_DUPLICATE, where, said_in(example), spans, match)
        for kind in findings_of(answer := last_answer(example)):
            self._collect(kind, where, [answer or ""], spans)

    def _personal_data(self, example: dict[str, Any], spans: SpansOf, where: Found) -> None:
        counts: dict[Finding, int] = {}
        shown: dict[Finding, Sample] = {}
        for text in texts_of(example):
            for span in spans[text]:
                counts[span.kind] = counts.get(span.kind, 0) + 1
                if span.kind not in shown and self._collected.wants_sample(span.kind):
                    before, after = change_of(text, span, spans[text])
                    shown[span.kind] = Sample(
                        line=where.line,
                        example=where.example,
                        excerpt=excerpt(text, span, spans[text]),
                        before=before,
                        after=after,
                    )
        for kind, count in counts.items():
            self._collected.add(kind, where, count, shown.get(kind))

    def _collect(
        self,
        kind: Finding,
        where: Found,
        texts: Iterable[str],
        spans: SpansOf,
        match: Match | None = None,
    ) -> None:
        sample = None
        if self._collected.wants_sample(kind):
            sample = Sample(
                line=where.line,
                example=where.example,
                excerpt=start_of((text, spans[text]) for text in texts),
                like_line=None if match is None else self._lines.line_of(match.key),
                similarity=None if match is None else round(match.similarity, 2),
            )
        self._collected.add(kind, where, sample=sample)

    def report(self, total: int, stopped: str | None = None) -> QualityReport:
        """Return the report of the examples so far, of `total` in the dataset."""
        analyzed = len(self._first)
        held = self._leaks(total)
        self._other_languages()
        self._long()
        return QualityReport(
            unit=self._unit,
            examples=total,
            analyzed=analyzed,
            compared=self._compared,
            crowded=self._index.crowded,
            held_out=held,
            stopped=stopped,
            findings=self._collected.result(),
            statistics=self._counting.result(),
        )

    def _leaks(self, total: int) -> int:
        """Add held-out examples whose near-duplicates are trained. Return the number held out.

        A job with the default seed holds them out, provided that its template renders all `total`
        examples. With another seed, others are held out.
        """
        if total < 2:
            return 0
        analyzed = len(self._first)
        chosen = {i for i in held_out(total, Hyperparameters().seed) if i < analyzed}
        groups = {self._first[index] for index in chosen}
        trained: dict[int, int] = {}
        for index, first in enumerate(self._first):
            if first in groups and index not in chosen:
                trained.setdefault(first, index + 1)
        for index in sorted(chosen):
            if (other := trained.get(self._first[index])) is not None:
                self._point(Finding.HELD_OUT_LEAK, index + 1, like=other)
        return len(chosen)

    def _other_languages(self) -> None:
        main = self._counting.main_language
        codes = list(self._codes)
        for number, code in enumerate(self._language, 1):
            if (name := codes[code]) not in (main, UNKNOWN):
                self._point(Finding.OTHER_LANGUAGE, number, language=name)

    def _long(self) -> None:
        most = max(LONG_CHARACTERS, LONG_TIMES * self._counting.median_characters)
        for number, characters in enumerate(self._characters, 1):
            if characters > most:
                said = (
                    f"{characters:,} characters; the median is {self._counting.median_characters:,}"
                )
                self._point(Finding.UNUSUALLY_LONG, number, excerpt=said)

    def _point(
        self,
        kind: Finding,
        number: int,
        *,
        excerpt: str = "",
        like: int | None = None,
        language: str | None = None,
    ) -> None:
        where = Found(number, self._lines.line_of(number))
        sample = Sample(
            line=where.line,
            example=number,
            excerpt=excerpt,
            like_line=None if like is None else self._lines.line_of(like),
            language=language,
        )
        self._collected.add(kind, where, sample=sample)
