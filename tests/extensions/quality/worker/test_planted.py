"""Recall and precision of the analysis on planted findings, and filters that remove all of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from domain.datasets.dataset import UploadOptions
from domain.datasets.filters import Filters
from domain.datasets.findings import PERSONAL, Finding
from extensions.quality.domain.quality_report import QualityReport
from extensions.quality.process_limits import TASKS, limits_of
from extensions.quality.worker import tasks
from extensions.quality.worker.tasks import handle
from infrastructure.process.limited_process import Limits, run
from tests.builders.planted import Corpus, planted
from tests.extensions.quality.bench import (
    COPIES,
    LEAST_RECALL,
    request_of,
    scores,
    technical_scores,
    verdicts,
)

Run = Callable[[str, Mapping[str, Any], Limits], dict[str, Any]]


@pytest.fixture(scope="module")
def corpora() -> tuple[Corpus, Corpus]:
    return planted(400, 20)


def test_planted_findings_are_found_and_nothing_else(corpora: tuple[Corpus, Corpus]) -> None:
    found = scores(*corpora)
    assert {each.planted for each in found} == {20}
    assert [str(each) for each in verdicts(found) if not each.met] == []


def test_code_and_logs_keep_their_numbers_and_colons() -> None:
    assert [str(each) for each in verdicts(technical_scores(300, 1_000)) if not each.met] == []


def here(_module: str, request: Mapping[str, Any], _limits: Limits) -> dict[str, Any]:
    """Run a task in this process, which does not import presidio each time."""
    return handle(json.loads(json.dumps(request)), lambda _: None)


def filtered(
    run_task: Run, corpora: tuple[Corpus, Corpus], directory: Path, filters: Filters
) -> bytes:
    """Return the examples that the filters leave."""
    directory.mkdir()
    request = request_of("filter", directory, *corpora)
    examples = directory / "examples.jsonl"
    run_task(
        TASKS,
        request
        | {
            "upload": request["examples"],
            "examples": str(examples),
            "options": {"keep_duplicates": UploadOptions().keep_duplicates, "ignore_tools": False},
            "columns": None,
            "max_bytes": 10**9,
            "max_unpacked_bytes": 10**9,
            "filters": filters.model_dump(mode="json"),
        },
        limits_of(10**6),
    )
    return examples.read_bytes()


@pytest.mark.parametrize(
    ("run_task", "examples", "each"),
    [
        pytest.param(here, 40, 3, id="small"),
        pytest.param(run, 400, 20, marks=pytest.mark.full, id="processes"),
    ],
)
def test_filters_remove_what_was_planted_and_are_deterministic(
    run_task: Run, examples: int, each: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "without_unused_libraries", lambda: None)
    train, _ = corpora = planted(examples, each)
    filters = Filters(
        near_duplicates=True,
        personal_data="mask",  # type: ignore[arg-type]
        contaminates="00000000-0000-0000-0000-000000000001",  # type: ignore[arg-type]
    )
    content = filtered(run_task, corpora, tmp_path / "first", filters)
    assert filtered(run_task, corpora, tmp_path / "second", filters) == content
    kept = set(content.splitlines())
    planted_lines = [*train.duplicates.items(), *train.leaks.items()]
    assert len(kept) == content.count(b"\n")
    easy = {line for rate, lines in planted_lines if rate in COPIES for line in lines}
    personal = set().union(*train.personal.values())
    clean = set(range(1, len(train.lines) + 1)) - personal
    clean -= set().union(*train.duplicates.values(), *train.leaks.values())
    originals = {train.lines[line - 1] for line in clean}
    assert originals <= kept
    missed = {train.lines[line - 1] for line in easy} & (kept - originals)
    assert len(missed) <= (1 - LEAST_RECALL) * len(easy)
    assert not {train.lines[line - 1] for line in personal} & kept
    assert content.count(b"[EMAIL_ADDRESS]") >= each - 1

    directory = tmp_path / "again"
    directory.mkdir()
    (directory / "kept.jsonl").write_bytes(content)
    request = request_of("analyze", directory, *corpora) | {
        "examples": str(directory / "kept.jsonl"),
        "total": len(kept),
    }
    report = QualityReport(**run_task(TASKS, request, limits_of(len(content))))
    assert not {*PERSONAL, Finding.NEAR_DUPLICATE} & set(report.counts)
