"""Findings about texts, masks, excerpts and differences."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import to_json

from domain.datasets.filters import Filters, PersonalData
from domain.datasets.findings import Finding
from domain.estimating.held_out import held_out
from domain.training.hyperparameters import Hyperparameters
from extensions.quality.worker.analysis import Analysis
from extensions.quality.worker.difference import Side, difference
from extensions.quality.worker.filtering import Filtering
from extensions.quality.worker.masking import excerpt, masked
from extensions.quality.worker.personal_data import Span
from extensions.quality.worker.secrets import secrets_in
from services.datasets.line_numbers import LineNumbers, LineNumbersWriter
from services.text_quality.answers import findings_of
from services.text_quality.near_duplicates import TextIndex
from services.text_quality.texts import dialogue_of, last_answer, said_in, texts_of, with_texts

LONG = "The delivery takes three days and the parcel leaves our warehouse in the evening. " * 3


@pytest.mark.parametrize(
    ("answer", "kinds"),
    [
        ("Yes", [Finding.SHORT_ANSWER]),
        ("Yes, it is.", []),
        (None, []),
        ("I'm sorry, but I can't help with that.", [Finding.REFUSAL]),
        ("I\u2019m sorry, I cannot assist with this request.", [Finding.REFUSAL]),
        ("As an AI language model, I have no opinion.", [Finding.REFUSAL]),
        ("I am sorry that your parcel is late. It arrives today.", []),
        ("I can help you with that.", []),
        (LONG.strip(), []),
        (
            LONG + "It then goes to the nearest station and from there it",
            [Finding.TRUNCATED_ANSWER],
        ),
        (LONG + "```python\nprint(1)", [Finding.TRUNCATED_ANSWER]),
        (LONG + "\n- one item", []),
    ],
)
def test_answers_that_are_short_refused_or_cut_off(
    answer: str | None, kinds: list[Finding]
) -> None:
    assert findings_of(answer) == kinds


@pytest.mark.parametrize(
    ("text", "secrets"),
    [
        ("the password is wrong, and the token of the reset expired", []),
        ("password: correct-horse", []),
        ("password = 'hunter2xY9'", ["hunter2xY9"]),
        ("see postgres://app:s3cr3t@db.example.com/x", ["postgres://app:s3cr3t@db.example.com"]),
        ("key AKIAIOSFODNN7EXAMPLE", ["AKIAIOSFODNN7EXAMPLE"]),
        ("https://example.com/a?b=c", []),
    ],
)
def test_secrets_are_found_by_their_format_or_assignment(text: str, secrets: list[str]) -> None:
    assert [text[start:end] for start, end in secrets_in(text)] == secrets


def test_excerpts_never_show_a_whole_finding() -> None:
    text = "write to jane@example.com or use hunter2xY9 with jane@example.com"
    spans = [
        Span(9, 25, Finding.EMAIL_ADDRESS),
        Span(33, 43, Finding.SECRET),
        Span(49, 65, Finding.EMAIL_ADDRESS),
    ]
    for span in spans:
        shown = excerpt(text, span, spans)
        assert "ane@" not in shown
        assert "hunter2" not in shown
        assert "write to j" in shown or span is spans[2]
    assert masked(text, spans, {Finding.SECRET}) == text.replace("hunter2xY9", "[SECRET]")


EXAMPLE = {
    "messages": [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "U"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {
                    "id": "U",
                    "type": "function",
                    "function": {"name": "U", "arguments": {"U": ["U", 1, {"x": "U"}]}},
                }
            ],
        },
        {"role": "tool", "content": "U", "tool_call_id": "U"},
        {"role": "assistant", "content": "A"},
    ],
    "tools": [{"type": "function", "function": {"name": "U"}}],
}


def test_texts_are_those_of_messages_and_arguments() -> None:
    assert list(texts_of(EXAMPLE)) == ["S", "U", "", "U", "U", "U", "A"]
    assert list(said_in(EXAMPLE)) == ["U", "U", "A"]
    assert dialogue_of(EXAMPLE) == 'U\nU\nA\nU {"U": ["U", 1, {"x": "U"}]}'
    changed = json.dumps(with_texts(EXAMPLE, lambda text: text.replace("U", "V")))
    expected = json.dumps(EXAMPLE).replace('"content": "U"', '"content": "V"')
    assert changed == expected.replace('["U", 1, {"x": "U"}]', '["V", 1, {"x": "V"}]')


PAIR = {
    "input": {"messages": [{"role": "user", "content": "U"}], "tools": EXAMPLE["tools"]},
    "preferred_output": [{"role": "assistant", "content": "A"}],
    "non_preferred_output": [{"role": "assistant", "content": "B"}],
}


def test_the_texts_of_a_pair_are_those_of_its_prompt_and_both_answers() -> None:
    assert dialogue_of(PAIR) == "U\nA\nB"
    assert last_answer(PAIR) == "A"
    masked_pair = with_texts(PAIR, str.lower)
    assert list(texts_of(masked_pair)) == ["u", "a", "b"]
    assert masked_pair["input"]["tools"] == EXAMPLE["tools"]


def test_a_pair_whose_answers_differ_only_in_masked_data_is_removed() -> None:
    secret = [[{"role": "assistant", "content": f"sk-proj-{each * 40}"}] for each in "ab"]
    filtering = Filtering(Filters(personal_data=PersonalData.MASK))
    content = to_json(PAIR)
    assert filtering(content) == content
    pair = PAIR | {"preferred_output": secret[0], "non_preferred_output": secret[1]}
    assert filtering(to_json(pair)) is None
    assert (filtering.removed, filtering.masked) == ({"personal_data": 1}, 0)


def test_equal_and_near_texts_are_found_and_the_first_is_the_match() -> None:
    index = TextIndex()
    text = "Where is my order from last week? It has not arrived at my address yet."
    assert index.find_or_add(1, text) is None
    assert index.find_or_add(2, "Something entirely different about the weather.") is None
    exact, near = (
        index.find_or_add(3, text.upper() + "  "),
        index.find_or_add(4, text[:-6] + "now."),
    )
    assert exact is not None
    assert exact == (1, 1.0)
    assert near is not None
    assert near.key == 1
    assert 0.7 <= near.similarity < 1
    assert index.find_or_add(5, "Hi") is None
    assert index.find_or_add(6, "hi") == (5, 1.0)
    assert index.find("") is None


@given(st.lists(st.integers(1, 5), max_size=60))
def test_line_numbers_are_those_that_were_written(steps: list[int]) -> None:
    lines, line = [], 0
    written = bytearray()
    writer = LineNumbersWriter(written.extend)
    for step in steps:
        line += step
        lines.append(line)
        writer.add(line)
    numbers = LineNumbers(bytes(written))
    assert [numbers.line_of(number) for number in range(1, len(lines) + 1)] == lines


def chat(question: str, answer: str) -> bytes:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return json.dumps({"messages": messages}).encode()


def side(lines: list[bytes], numbers: bytes = b"") -> Side:
    opened: Callable[[], list[bytes]] = lambda: lines  # noqa: E731
    return Side(opened, LineNumbers(numbers), "line")


def test_a_difference_has_added_removed_and_changed_examples() -> None:
    old = [chat("a", "1"), chat("b", "2"), chat("c", "3"), chat("d", "4"), chat("a", "1")]
    new = [chat("d", "4"), chat("b", "two"), chat("sea", "3"), chat("e", "5"), chat("a", "1")]
    found = difference(side(old), side(new, b"1 2\n"))
    assert (found.old_examples, found.examples, found.unchanged) == (5, 5, 2)
    assert (found.added, found.removed, found.changed) == (1, 1, 2)
    assert [(each.old_line, each.line) for each in found.changed_examples] == [(2, 3), (3, 4)]
    assert found.changed_examples[0].old_text == "user: b\nassistant: 2"
    assert found.changed_examples[0].text == "user: b\nassistant: two"
    assert [each.line for each in found.added_examples] == [5]
    assert [each.old_line for each in found.removed_examples] == [5]


def test_a_filtered_version_changes_examples_in_the_lines_of_its_upload() -> None:
    old = [chat("a", "x@y.de"), chat("b", "2"), chat("x@y.de", "x@y.de")]
    new = [chat("a", "[E]"), chat("[E]", "[E]")]
    found = difference(side(old), side(new, b"2 3\n"), same_upload=True)
    assert (found.added, found.removed, found.changed) == (0, 1, 2)
    assert [(each.old_line, each.line) for each in found.changed_examples] == [(1, 1), (3, 3)]


def test_a_difference_shows_the_text_around_a_late_change() -> None:
    same = "The parcel arrives tomorrow. " * 60
    old, new = chat("Where?", f"{same}Call 1."), chat("Where?", f"{same}Call [PHONE_NUMBER].")
    (changed,) = difference(side([old]), side([new])).changed_examples
    assert changed.old_text is not None
    assert changed.text is not None
    assert changed.old_text.startswith("…")
    assert changed.old_text.endswith("Call 1.")
    assert changed.text.endswith("Call [PHONE_NUMBER].")
    assert len(changed.text) < 200


@given(st.lists(st.sampled_from("abcd")), st.lists(st.sampled_from("abcd")))
def test_a_difference_accounts_for_each_example(old: list[str], new: list[str]) -> None:
    found = difference(
        side([chat(each, each) for each in old]), side([chat(each, each) for each in new])
    )
    assert found.unchanged + found.removed + found.changed == len(old) == found.old_examples
    assert found.unchanged + found.added + found.changed == len(new) == found.examples


def test_a_partial_analysis_reports_examples_that_jobs_hold_out() -> None:
    line = to_json({"messages": [{"role": "user", "content": LONG}] * 2})
    report = Analysis(LineNumbers(), "line", 60).run([line] * 60, 100)
    assert (report.analyzed, report.examples) == (60, 100)
    expected = [i + 1 for i in sorted(held_out(100, Hyperparameters().seed)) if i < 60]
    leaks = report.of_kind(Finding.HELD_OUT_LEAK)
    assert leaks is not None
    assert list(leaks.lines) == expected
    assert report.held_out == len(expected)


def test_the_report_shows_what_masking_would_change() -> None:
    secret = "AKIAIOSFODNN7EXAMPLE"
    text = f"Write to anna@example.com from 81.2.69.142, key {secret}, or slice l[::2]."
    messages = [{"role": "user", "content": text}, {"role": "assistant", "content": "I will."}]
    analysis = Analysis(LineNumbers(b""), "line", 60)
    analysis.add({"messages": messages})
    report = analysis.report(1)
    shown = {each.kind: each.samples[0] for each in report.findings if each.samples[0].after}
    assert set(shown) == {Finding.EMAIL_ADDRESS, Finding.IP_ADDRESS, Finding.SECRET}
    for kind, found in ((Finding.EMAIL_ADDRESS, "anna@example.com"), (Finding.IP_ADDRESS, "81.2")):
        assert found in (shown[kind].before or "")
        assert f"[{kind.upper()}]" in (shown[kind].after or "")
    assert secret not in report.model_dump_json()
    hidden = report.without_excerpts().model_dump_json()
    assert "example.com" not in hidden
    assert "[IP_ADDRESS]" not in hidden
