"""Long texts and limits on the computing time: what they cost, and what a report keeps."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.datasets.findings import Finding
from extensions.quality.domain.quality_report import QualityReport
from extensions.quality.process_limits import TASKS, limits_of, seconds_of
from extensions.quality.worker import computing_time, personal_data
from extensions.quality.worker.analysis import Analysis
from extensions.quality.worker.contamination import Compared, contamination
from extensions.quality.worker.personal_data import (
    PRECEDENCE,
    Recognizers,
    Span,
    without_overlaps,
)
from extensions.quality.worker.secrets import secrets_in
from infrastructure.process.limited_process import run
from services.datasets.line_numbers import LineNumbers
from tests.builders.planted import PERSONAL_DATA, Writer, line_of

MIB = 1024**2


def addresses(number: int) -> str:
    return " ".join(f"user{at}@example{at % 97}.com" for at in range(number))


@pytest.fixture
def ticks(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Let each reading of the computing time take a second."""
    clock = count()
    monkeypatch.setattr(computing_time.time, "process_time", lambda: next(clock))
    return clock


@given(
    st.lists(
        st.builds(
            lambda start, length, kind: Span(start, start + length, kind),
            st.integers(0, 40),
            st.integers(1, 12),
            st.sampled_from(PRECEDENCE),
        )
    )
)
def test_overlapping_spans_give_way_to_those_of_a_higher_precedence(found: list[Span]) -> None:
    def rank(span: Span) -> tuple[int, int, int]:
        return PRECEDENCE.index(span.kind), span.start - span.end, span.start

    kept: list[Span] = []
    for span in sorted(found, key=rank):
        if all(span.end <= other.start or other.end <= span.start for other in kept):
            kept.append(span)
    assert without_overlaps([*found], 60) == sorted(kept)


def test_the_parts_of_a_long_text_have_the_findings_of_the_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    writer, texts = Writer(5), list[str]()
    for make in PERSONAL_DATA.values():
        for _ in range(30):
            texts += writer.with_inserted(writer.chat(), make(writer.source))
    text = " ".join(texts)
    recognizers = Recognizers()
    parts = recognizers.spans(text)
    monkeypatch.setattr(personal_data, "WINDOW", len(text))
    assert parts == recognizers.spans(text)
    assert len(text) > 10 * 4_000
    assert {span.kind for span in parts} == set(PERSONAL_DATA)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("eyJ-" * 150_000, id="starts of JSON web tokens"),
        pytest.param("password" + " " * 600_000, id="spaces after the word password"),
        pytest.param("api_key=" * 75_000, id="words for secrets"),
    ],
)
def test_a_long_text_without_secrets_is_searched_once(text: str) -> None:
    """A search that takes a time that grows with the square of the text would not end."""
    assert list(secrets_in(text)) == []


def test_first_lines_of_private_keys_are_found_in_one_pass() -> None:
    line = "-----BEGIN PRIVATE KEY-----"
    assert len(list(secrets_in(line * 20_000))) == 20_000


def test_a_private_key_is_found_up_to_its_last_line() -> None:
    def found(text: str) -> list[str]:
        return [text[start:end] for start, end in secrets_in(text)]

    first, last = "-----BEGIN RSA PRIVATE KEY-----", "-----END RSA PRIVATE KEY-----"
    key = f"{first}\n{'QUJD' * 700}\n{last}"
    assert found(f"Use {key} or {key}.") == [key, key]
    assert found(f"{first} {key}") == [first, key]
    assert found(f"{first} <cut> {last} {first}") == [first, first]
    assert found(last) == []


@pytest.mark.full
def test_a_line_with_many_addresses_is_analyzed(tmp_path: Path) -> None:
    """The line has 8 MiB and 50,000 addresses in the complete tests, and fewer in others."""
    report = analyzed(tmp_path, addresses(5_000) + " and so on" * 10_000)
    mails = report.of_kind(Finding.EMAIL_ADDRESS)
    assert mails is not None
    assert (report.stopped, report.analyzed, mails.occurrences) == (None, 2, 5_000)


@pytest.mark.full
def test_the_longest_line_with_50_000_addresses_is_analyzed(tmp_path: Path) -> None:
    text = addresses(50_000)
    report = analyzed(tmp_path, text + " and so on" * ((8 * MIB - len(text) - 1_000) // 10))
    mails = report.of_kind(Finding.EMAIL_ADDRESS)
    assert mails is not None
    assert (report.stopped, report.analyzed, mails.occurrences) == (None, 2, 50_000)


def analyzed(directory: Path, text: str) -> QualityReport:
    """Analyze a text and a short chat in a process of the service, with its limits."""
    path = directory / "examples.jsonl"
    path.write_bytes(line_of([text, "Noted."]) + b"\n" + line_of(Writer(1).chat()) + b"\n")
    size = path.stat().st_size
    request = {
        "task": "analyze",
        "examples": str(path),
        "lines": None,
        "unit": "line",
        "total": 2,
        "seconds": seconds_of(size),
    }
    return QualityReport(**run(TASKS, request, limits_of(size)))


def test_a_long_text_is_left_out_if_the_time_ends_within_it(ticks: Iterator[int]) -> None:
    mail = line_of([addresses(1), Writer(1).chat()[1]])
    long = line_of([addresses(1) + " and so on" * 100_000, "Noted."])
    report = Analysis(LineNumbers(), "line", 50).run([mail, long, mail], 3)
    assert (report.stopped, report.analyzed, report.examples) == ("time", 1, 3)
    assert report.statistics.characters.most < 1_000
    assert {each.kind: each.lines for each in report.findings} == {Finding.EMAIL_ADDRESS: (1,)}


@pytest.mark.parametrize(
    "method", ["_recognizers.spans", "_index.find_or_add", "_languages.of", "_counting.add"]
)
def test_an_analysis_without_memory_reports_the_examples_before(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = "Tell me more. " * 1_000

    def without_memory(*given: object) -> object:
        if long in repr(given):
            raise MemoryError
        return real(*given)

    analysis = Analysis(LineNumbers(), "line", 60)
    owner, _, name = method.partition(".")
    real = getattr(getattr(analysis, owner), name)
    monkeypatch.setattr(getattr(analysis, owner), name, without_memory)
    mail = line_of([addresses(1), Writer(1).chat()[1]])
    report = analysis.run([mail, line_of([long, long]), mail], 3)
    assert (report.stopped, report.analyzed, report.compared) == ("memory", 1, 1)
    assert report.statistics.with_system_prompt == 1
    assert report.statistics.characters.most < 1_000
    assert {each.kind: each.examples for each in report.findings} == {Finding.EMAIL_ADDRESS: 1}


def test_a_comparison_without_time_reports_the_compared_examples(ticks: Iterator[int]) -> None:
    chats = [line_of(Writer(seed).chat()) for seed in range(40)]
    found = contamination(
        Compared(chats, LineNumbers(), 40), Compared(chats, LineNumbers(), 40),
        unit="line", seconds=40,
    )  # fmt: skip
    assert found.stopped == "time"
    assert found.is_partial
    assert (found.total, found.validation_total) == (40, 40)
    assert 0 < found.validation_examples < 40
    assert 0 < found.examples < 40
    assert found.exact == min(found.examples, found.validation_examples)
    whole = json.loads(found.model_dump_json()) | {"examples": 40, "validation_examples": 40}
    assert not type(found)(**whole).is_partial
