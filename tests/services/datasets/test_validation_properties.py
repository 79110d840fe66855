"""Properties of the validation for any bytes."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any
from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st

from domain.datasets.dataset import DatasetStatus
from services.datasets import examples
from services.datasets.report import Report
from tests.services.datasets.uploads import ASSISTANT, jsonl, validated

LIMIT, LINE_LIMIT = 4_000, 1_500

texts = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1
).filter(lambda text: not text.isspace())
names = st.none() | texts
plain_messages = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "system", "developer"]), "content": texts, "name": names}
)
assistant_messages = st.fixed_dictionaries(
    {"role": st.just("assistant"), "content": texts},
    optional={"weight": st.sampled_from([None, 0, 1]), "name": names},
)


@st.composite
def chats(draw: st.DrawFn) -> dict[str, Any]:
    """A valid example in the `messages` form, with tool calls now and then."""
    messages: list[dict[str, Any]] = [draw(plain_messages)]
    for _ in range(draw(st.integers(0, 3))):
        messages.append(draw(plain_messages | assistant_messages))
        if messages[-1]["role"] == "assistant" and draw(st.booleans()):
            arguments = draw(st.dictionaries(texts, texts | st.integers() | st.booleans()))
            function = {"name": draw(texts.filter(str.strip)), "arguments": arguments}
            messages[-1]["tool_calls"] = [{"id": "a", "type": "function", "function": function}]
            messages.append(
                {"role": "tool", "tool_call_id": "a", "content": draw(st.just("") | texts)}
            )
    messages.append({"role": "assistant", "content": draw(texts)})
    return {"messages": messages}


# Values that look like examples, so that every rule is reached.
words = st.sampled_from(
    [
        *("messages", "prompt", "completion", "role", "content", "weight", "name", "text", "type"),
        *("tool_calls", "tool_call_id", "function", "arguments", "id", "\ud800"),
        *("user", "assistant", "tool", "system"),
    ]
)
lookalikes = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | words | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=5),
)
almost_messages = st.dictionaries(words, lookalikes, max_size=4).map(
    lambda extra: {"role": "assistant", "content": "x", **extra}
)
almost_examples = st.lists(plain_messages | almost_messages, max_size=4).map(
    lambda messages: {"messages": messages}
)
escaped = texts.map(json.dumps) | st.sampled_from([r'"a\\"', r'"\"role\":"', r'"\\\"role"'])
doubled = st.lists(
    st.tuples(st.sampled_from(["role", "content", r"r\u006fle"]), st.just('"user"') | escaped),
    min_size=2,
    max_size=3,
).map(lambda pairs: "{" + ", ".join(f'"{key}": {value}' for key, value in pairs) + "}")
spelled = doubled.map(
    lambda message: f'{{"messages": [{message}, {json.dumps(ASSISTANT)}]}}'.encode()
)
lines = st.one_of(
    spelled,
    st.binary(max_size=60),
    st.sampled_from([b"", b" ", b"\r", b"\xef\xbb\xbf", b"{", b"[" * 1_400, b"x" * 2_000, b"PAR1"]),
    st.one_of(lookalikes, almost_examples, chats()).map(lambda value: json.dumps(value).encode()),
)
files = st.lists(lines, max_size=12).map(b"\n".join)


@given(st.binary() | files)
def test_any_file_ends_in_a_report(content: bytes) -> None:
    report, output, _ = validated(content, max_bytes=LIMIT, max_line_bytes=LINE_LIMIT)
    assert report.error_count >= len(report.errors)
    assert (report.status is DatasetStatus.REJECTED) == (report.error_count > 0)
    assert report.bytes <= min(len(content), LIMIT)
    assert Report.model_validate_json(report.model_dump_json()) == report
    if report.status is DatasetStatus.READY_FOR_TRAINING:
        assert report.examples == output.count(b"\n")
        assert report.normalized_bytes == len(output)


@given(files, st.data())
def test_the_report_does_not_depend_on_the_chunks(content: bytes, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(content)), max_size=8)))
    edges = [0, *cuts, len(content)]
    chunks = [content[start:end] for start, end in pairwise(edges)]
    limits = {"max_bytes": LIMIT, "max_line_bytes": LINE_LIMIT}
    whole = validated(content, **limits)
    assert validated(*chunks, **limits) == whole
    assert validated(*(content[i : i + 1] for i in range(len(content))), **limits) == whole


@given(files)
def test_the_fast_path_equals_the_rules(content: bytes) -> None:
    quick = validated(content)
    with patch.object(examples, "plain_messages", return_value=None):
        assert validated(content) == quick


@given(st.lists(chats(), min_size=1, max_size=5))
def test_valid_chats_pass_and_their_output_passes_unchanged(valid: list[dict[str, Any]]) -> None:
    report, output, _ = validated(jsonl(*valid))
    assert report.errors == ()
    assert report.status is DatasetStatus.READY_FOR_TRAINING
    assert report.examples + report.duplicates == len(valid)
    again, same, _ = validated(output)
    assert (again.status, again.sha256, again.duplicates) == (report.status, report.sha256, 0)
    assert same == output


@given(chats())
def test_normalizing_keeps_every_word(example: dict[str, Any]) -> None:
    _, output, _ = validated(jsonl(example))
    for before, after in zip(example["messages"], json.loads(output)["messages"], strict=True):
        role = "system" if before["role"] == "developer" else before["role"]
        kept = {key: value for key, value in before.items() if value is not None}
        assert after == {**kept, "role": role}
