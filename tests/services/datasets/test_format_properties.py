"""Properties of the guess of columns and of the readers, for any names and bytes."""

from __future__ import annotations

import gzip
import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from domain.core.errors import Invalid
from domain.datasets.columns import Role, chosen_columns, columns_document, columns_from
from domain.datasets.dataset import DatasetStatus
from infrastructure.datasets.chat_columns import (
    NAMES,
    BadColumn,
    guess_columns,
    plain_name,
    to_example,
)
from infrastructure.datasets.preference_columns import messages_of, to_pair
from services.datasets.report import Report
from tests.services.datasets.formats import CORPUS, FORMATS, chat_of, validated_file

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
words = texts.map(str.strip).filter(bool)
known = st.sampled_from(sorted({name for names in NAMES.values() for name in names}))
names = known | texts.filter(bool)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "from", "value", "content", "name"]), inner)
    ),
)
rows = st.lists(st.dictionaries(names, values, max_size=6), max_size=4)


def spelled(name: str, how: int) -> str:
    """Return the name of a column as people write it."""
    return [name, name.upper(), name.replace("_", " ").title(), f" {name}"][how]


@given(rows, st.booleans())
def test_any_guess_can_be_chosen_and_used(sample: list[dict[str, Any]], by_position: bool) -> None:
    columns = list(dict.fromkeys(name for row in sample for name in row))
    found = guess_columns(columns, sample, by_position=by_position)
    if found is None:
        return
    assert set(found.values()) <= set(columns)
    assert len(set(found.values())) == len(found)
    assert chosen_columns({str(role): name for role, name in found.items()}) == found
    assert columns_from(columns_document(found)) == found
    for row in sample:
        try:
            example = to_pair(row, found) if Role.CHOSEN in found else to_example(row, found)
        except BadColumn:
            continue
        if Role.CHOSEN in found:
            assert [name for name, each in messages_of(example) if not each] == []
        else:
            assert isinstance(example["messages"], list)


@given(
    st.sampled_from(NAMES[Role.USER]),
    st.sampled_from(NAMES[Role.ASSISTANT]),
    st.booleans(),
    st.integers(0, 3),
    st.lists(st.sampled_from(["id", "date", "source"]), unique=True),
    st.randoms(),
)
def test_columns_with_telling_names_are_found_in_any_order(
    user: str, assistant: str, has_system: bool, how: int, others: list[str], random: Any
) -> None:
    wanted = {Role.USER: user, Role.ASSISTANT: assistant}
    if has_system:
        wanted = {Role.SYSTEM: "system_prompt", **wanted}
    wanted = {role: spelled(name, how) for role, name in wanted.items()}
    columns = [*wanted.values(), *others]
    random.shuffle(columns)
    row = {name: f"text of {name}" for name in columns}
    assert guess_columns(columns, [row, row], by_position=True) == wanted


@given(st.dictionaries(st.sampled_from([*Role, "other"]), texts))
def test_chosen_columns_are_used_or_refused(raw: dict[str, str]) -> None:
    try:
        columns = chosen_columns({str(role): name for role, name in raw.items()})
    except Invalid:
        return
    assert {str(role): name for role, name in columns.items()} == raw


@given(names)
def test_plain_names_are_stable(name: str) -> None:
    assert plain_name(plain_name(name)) == plain_name(name)


@given(st.lists(st.tuples(words, words), min_size=2, max_size=4, unique=True))
@settings(max_examples=25, deadline=None)
def test_any_chats_have_one_hash_in_every_format(pairs: list[tuple[str, str]]) -> None:
    chats = [chat_of(question, answer) for question, answer in pairs]
    expected, _, _ = validated_file(FORMATS["JSONL"](chats))
    for name in ("JSON array in gzip", "ShareGPT", "CSV with messages", "Parquet"):
        report, _, _ = validated_file(FORMATS[name](chats))
        assert (name, report.errors, report.sha256) == (name, (), expected.sha256)


FILES = {name: write(CORPUS) for name, write in FORMATS.items() if "Parquet" not in name}
"""Files whose readers cannot end the process. test_damaged_parquet.py has the others."""


@given(st.sampled_from(sorted(FILES)), st.data())
@settings(max_examples=150, deadline=None)
def test_a_damaged_file_ends_in_a_report(name: str, data: st.DataObject) -> None:
    content = bytearray(FILES[name])
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content))) :]
    if data.draw(st.booleans()):
        at = data.draw(st.integers(0, len(content)))
        content[at:at] = data.draw(st.binary(max_size=20))
    report, examples, _ = validated_file(bytes(content), unpacked=10**7)
    assert (report.status is DatasetStatus.REJECTED) == (report.error_count > 0)
    assert report.bytes <= len(content)
    assert Report.model_validate_json(report.model_dump_json()) == report
    if report.status is DatasetStatus.READY_FOR_TRAINING:
        assert len(examples) == report.examples


@given(st.binary(max_size=200), st.sampled_from([b"[", b"PK\x03\x04", b"User:", b"a,b\n"]))
@settings(deadline=None)
def test_any_bytes_after_a_known_start_end_in_a_report(content: bytes, start: bytes) -> None:
    for each in (start + content, gzip.compress(start + content)):
        report, _, _ = validated_file(each, unpacked=10**6)
        assert json.loads(report.model_dump_json())["error_count"] == report.error_count
