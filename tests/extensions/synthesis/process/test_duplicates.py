"""One comparison of examples for the quality report and for syntheses."""

from __future__ import annotations

import json
from typing import Any

import pytest

from domain.datasets.filters import DEFAULT_SIMILARITY, LEAST_SIMILARITY
from domain.datasets.findings import Finding
from extensions.synthesis.process.duplicates import SeenExamples
from services.datasets.line_numbers import LineNumbers
from tests.services.text_quality.test_near_duplicates import WORDS, examples

Analysis = pytest.importorskip("extensions.quality.worker.analysis").Analysis


def reported(chosen: list[dict[str, Any]]) -> int:
    """Return the near-duplicates that the quality report of some examples lists."""
    lines = [json.dumps(each).encode() for each in chosen]
    report = Analysis(LineNumbers(), "line", seconds=600).run(lines, len(lines))
    return report.counts.get(Finding.NEAR_DUPLICATE, 0)


@pytest.mark.full
@pytest.mark.parametrize("language", WORDS)
def test_the_report_lists_no_example_that_a_synthesis_calls_new(
    language: str, subtests: pytest.Subtests
) -> None:
    found = list(examples(language))
    assert reported(found) > 20
    for similarity in (LEAST_SIMILARITY, 0.6, DEFAULT_SIMILARITY):
        with subtests.test(f"{similarity}"):
            seen = SeenExamples(similarity)
            diverse = [each for each in found if seen.add(each["messages"])]
            assert 0 < len(diverse) < len(found)
            assert reported(diverse) == 0
