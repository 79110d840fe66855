"""Uploads in other formats than JSON Lines."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest

from domain.datasets.columns import Role
from domain.datasets.dataset import DatasetStatus
from services.datasets import unpacking
from services.datasets.report import Code
from tests.services.datasets.formats import (
    CORPUS,
    FORMATS,
    PAIRS,
    SYSTEM,
    array,
    chat_of,
    jsonl,
    parquet,
    sharegpt,
    table,
    transcript,
    validated_file,
    zipped,
)
from tests.services.datasets.uploads import CALL


def _errors(content: bytes, **chosen: Any) -> list[tuple[int | None, Code]]:
    report, _, _ = validated_file(content, **chosen)
    assert report.status is DatasetStatus.REJECTED
    return [(error.line, Code(error.code)) for error in report.errors]


@pytest.mark.parametrize("name", FORMATS)
def test_one_corpus_has_one_hash_in_every_format(name: str) -> None:
    expected, examples, _ = validated_file(jsonl(CORPUS))
    assert examples == CORPUS
    content = FORMATS[name](CORPUS)
    report, _, sample = validated_file(content)
    assert report.errors == ()
    assert (report.sha256, report.examples) == (expected.sha256, len(CORPUS))
    assert report.bytes == len(content)
    assert len(sample["rows"]) == 3


@pytest.mark.parametrize(
    ("name", "format", "shape", "columns"),
    [
        ("JSONL", "JSONL", "OpenAI messages", {"messages": "messages"}),
        ("JSON array in gzip", "JSON array in gzip", "OpenAI messages", {"messages": "messages"}),
        (
            "JSONL in zip",
            'JSONL in zip ("data/a.jsonl")',
            "OpenAI messages",
            {"messages": "messages"},
        ),
        ("ShareGPT", "JSONL", "ShareGPT", {"messages": "conversations", "system": "system"}),
        (
            "Alpaca",
            "JSON array",
            "Alpaca",
            {
                **{"system": "system", "user": "instruction", "input": "input"},
                **{"assistant": "output", "history": "history"},
            },
        ),
        (
            "TSV",
            "TSV",
            "prompt and completion",
            {"system": "system", "user": "prompt", "assistant": "completion"},
        ),
        (
            "Parquet in zip",
            'Parquet in zip ("a.parquet")',
            "question and answer columns",
            {"system": "system", "user": "query", "assistant": "reply"},
        ),
        ("transcript", "transcript", "OpenAI messages", {"messages": "messages"}),
    ],
)  # fmt: skip
def test_the_report_has_the_format_and_the_columns(
    name: str, format: str, shape: str, columns: dict[str, str]
) -> None:
    report, _, _ = validated_file(FORMATS[name](CORPUS))
    assert (report.format, report.shape, report.columns) == (format, shape, columns)
    assert not report.columns_chosen


def test_chosen_columns_replace_the_guess() -> None:
    rows = [
        {"a": "Hi", "b": "Hello", "question": "x", "answer": "y"},
        {"a": "z", "b": "z", "question": "p", "answer": "q"},
    ]
    report, examples, sample = validated_file(table(rows), {Role.USER: "a", Role.ASSISTANT: "b"})
    assert report.columns == {"user": "a", "assistant": "b"}
    assert report.columns_chosen
    assert examples[0] == chat_of("Hi", "Hello", None)
    assert sample["names"] == ["a", "b", "question", "answer"]
    assert sample["rows"][0] == {"number": 1, "value": rows[0]}


def test_two_columns_with_unknown_names_are_question_and_answer() -> None:
    rows = [{"frage": question, "antwort": answer} for question, answer in PAIRS]
    for content in (table(rows), parquet(rows)):
        report, examples, _ = validated_file(content)
        assert report.columns == {"user": "frage", "assistant": "antwort"}
        assert examples == [chat_of(*pair, None) for pair in PAIRS]


def test_a_table_without_a_header_has_numbered_columns() -> None:
    content = b"Where is it?,On its way.\nWhen?,Tomorrow.\n"
    report, examples, _ = validated_file(content)
    assert report.format == "CSV without a header"
    assert report.columns == {"user": "column 1", "assistant": "column 2"}
    pairs = [("Where is it?", "On its way."), ("When?", "Tomorrow.")]
    assert examples == [chat_of(*pair, None) for pair in pairs]


def test_sharegpt_has_tools_calls_and_observations() -> None:
    look = {"name": "look", "description": "Looks.", "parameters": {"type": "object"}}
    row = {
        "tools": json.dumps([look]),
        "conversations": [
            {"from": "human", "value": "Weather?"},
            {"from": "function_call", "value": '{"name": "look", "arguments": {"at": 1}}'},
            {"from": "observation", "value": "rain"},
            {"from": "gpt", "value": "It rains."},
        ],
    }
    call = {"type": "function", "function": {"name": "look", "arguments": {"at": 1}}}
    expected = {
        "messages": [
            {"role": "user", "content": "Weather?"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": "rain"},
            {"role": "assistant", "content": "It rains."},
        ],
        "tools": [{"type": "function", "function": look}],
    }
    for content in (jsonl([row]), parquet([row])):
        report, (example,), _ = validated_file(content)
        assert example == expected
        assert (report.examples_with_tools, report.warnings) == (1, ())


def test_openai_tool_calls_in_parquet_equal_those_in_jsonl() -> None:
    messages = [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "rain", "tool_call_id": "c1"},
        {"role": "assistant", "content": "It rains.", "weight": 1},
    ]
    rows = [{"messages": messages}, chat_of("Hi", "Hello")]
    expected, _, _ = validated_file(jsonl(rows))
    report, _, _ = validated_file(parquet(rows))
    assert report.sha256 == expected.sha256


def test_alpaca_has_earlier_turns_and_weights() -> None:
    row = {
        "instruction": "And now?",
        "output": "Later.",
        "history": [["Hi", "Hello"]],
        "weight": 0,
    }
    _, examples, _ = validated_file(jsonl([row, {**row, "weight": 1}]))
    assert examples[0]["messages"] == [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "And now?"},
        {"role": "assistant", "content": "Later.", "weight": 0},
    ]
    assert examples[1]["messages"][-1]["weight"] == 1


def test_errors_name_the_row_the_column_and_the_value() -> None:
    rows = [{"question": "a", "answer": "b"}, {"question": "c", "answer": " "}]
    for content in (table(rows), parquet(rows)):
        report, _, _ = validated_file(content)
        (error,) = report.errors
        assert (report.unit, error.line, error.code) == ("row", 2, Code.EMPTY_CONTENT)
        assert '"answer"' in error.message
        assert error.excerpt is not None
    report, _, _ = validated_file(
        jsonl([*sharegpt(CORPUS), {"conversations": [{"from": "alien"}]}])
    )
    (error,) = report.errors
    assert (report.unit, error.line, error.code) == ("line", 5, Code.WRONG_ROLE)
    assert '"alien"' in error.message
    assert '"conversations"' in error.message


BAD_FILES = {
    "a row with too few values": (b"question,answer\na,b\nc\nd,e\n", [(2, Code.MALFORMED_TABLE)]),
    "text after a closing quote": (
        b'question,answer\na,b\nc,"d"x\ne,f\n',
        [(2, Code.MALFORMED_TABLE)],
    ),
    "an open quote": (b'question,answer\na,b\nc,"d\n', [(2, Code.MALFORMED_TABLE)]),
    "bytes that are not UTF-8": (
        b"question,answer\na,b\nc,\xe9\nd,\n",
        [(2, Code.BAD_UTF8), (3, Code.EMPTY_CONTENT)],
    ),
    "a table without rows": (b"question,answer\n", [(None, Code.EMPTY_FILE)]),
    "columns without a known meaning": (
        b"id,date,note\n1,2020,x\n2,2021,y\n",
        [(None, Code.UNKNOWN_COLUMNS)],
    ),
    "an array without its end": (array(CORPUS)[:-30], [(None, Code.MALFORMED_JSON)]),
    "text after the array": (array(CORPUS) + b"x", [(None, Code.MALFORMED_JSON)]),
    "an array with a number": (array([*CORPUS, 5]), [(5, Code.NOT_OBJECT)]),
    "an open bracket": (b"[", [(None, Code.MALFORMED_JSON)]),
    "an empty array": (b"[]", [(None, Code.EMPTY_FILE)]),
    "an array with a stray comma": (b'[{"a": 1,, }]', [(None, Code.MALFORMED_JSON)]),
    "a key given twice": (b'[\n{"messages": [], "messages": []}]', [(1, Code.DUPLICATE_KEY)]),
    "gzip without its end": (gzip.compress(jsonl(CORPUS))[:-9], [(None, Code.DAMAGED_FILE)]),
    "gzip with a header only": (gzip.compress(jsonl(CORPUS))[:12], [(None, Code.DAMAGED_FILE)]),
    "gzip with damaged data": (b"\x1f\x8bxxxxxxxxxxxxxxxxxxxx", [(None, Code.DAMAGED_FILE)]),
    "zip with damaged data": (b"PK\x03\x04" + b"x" * 100, [(None, Code.DAMAGED_FILE)]),
    "zip with two files": (
        zipped(("a.jsonl", jsonl(CORPUS)), ("b.jsonl", b"")),
        [(None, Code.UNSUPPORTED_FILE)],
    ),
    "zip without files": (zipped(), [(None, Code.UNSUPPORTED_FILE)]),
    "a document of an office program": (
        zipped(("[Content_Types].xml", b""), ("b", b"")),
        [(None, Code.UNSUPPORTED_FILE)],
    ),
    "zip inside zip": (zipped(("a.zip", zipped(("b", b"")))), [(None, Code.UNSUPPORTED_FILE)]),
    "gzip three times": (
        gzip.compress(gzip.compress(gzip.compress(b"{}"))),
        [(None, Code.UNSUPPORTED_FILE)],
    ),
    "Parquet without its end": (parquet(CORPUS)[:-20], [(None, Code.DAMAGED_FILE)]),
    "Parquet with damaged data": (b"PAR1" + b"x" * 50, [(None, Code.DAMAGED_FILE)]),
    "Parquet without known columns": (parquet([{"a": 1, "b": 2}]), [(None, Code.UNKNOWN_COLUMNS)]),
    "a transcript without speakers": (
        transcript(CORPUS) + b"\n---\nhello\n---\nUser: x\n",
        [(20, Code.MALFORMED_TRANSCRIPT), (22, Code.NO_ASSISTANT)],
    ),
    "a transcript that is not UTF-8": (
        b"User: \n---\nUser: x\nAssistant: \xff\n",
        [(1, Code.EMPTY_CONTENT), (3, Code.BAD_UTF8)],
    ),
}


@pytest.mark.parametrize(("content", "errors"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_bad_file_is_rejected(content: bytes, errors: list[tuple[int | None, Code]]) -> None:
    assert _errors(content) == errors


def test_the_rows_before_a_damaged_one_are_counted() -> None:
    report, _, sample = validated_file(gzip.compress(array(CORPUS)[:-30]))
    assert (report.format, report.examples) == ("JSON array in gzip", len(CORPUS) - 1)
    assert len(sample["rows"]) == 3
    report, _, _ = validated_file(parquet(CORPUS)[:-20])
    assert report.format == "unknown"


def test_a_chosen_column_that_the_file_lacks_is_reported() -> None:
    chosen = {Role.USER: "question", Role.ASSISTANT: "anwser"}
    content = table([{"question": "a", "answer": "b"}])
    assert _errors(content, columns=chosen) == [(None, Code.MISSING_COLUMN)]


def test_unpacked_files_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = gzip.compress(b"\n" * 10**6)
    assert _errors(bomb, unpacked=10**5) == [(None, Code.FILE_TOO_LARGE)]
    monkeypatch.setattr(unpacking, "RATIO_FROM_BYTES", 10**5)
    for content in (bomb, zipped(("a", b"\n" * 10**6)), zipped(("a", b"PAR1" + bytes(10**6)))):
        assert _errors(content) == [(None, Code.COMPRESSED_TOO_MUCH)]


def test_repeated_values_in_parquet_count_with_their_size() -> None:
    row = chat_of("x" * 10_000, "y")
    content = parquet([row] * 1_000)
    assert len(content) < 10**6
    assert _errors(content, unpacked=10**6) == [(None, Code.FILE_TOO_LARGE)]


def test_an_array_element_may_be_longer_than_a_chunk() -> None:
    chats = [chat_of("x" * 3_000_000, "y"), chat_of("a", "b" * 1_500_000)]
    report, examples, _ = validated_file(array(chats))
    assert examples == chats
    assert report.errors == ()


@pytest.mark.parametrize("write", [array, parquet])
def test_a_row_that_is_too_long_is_reported(write: Any) -> None:
    content = write([chat_of("x" * 9 * 1024**2, "y"), chat_of("a", "b")])
    assert _errors(content) == [(1, Code.LINE_TOO_LONG)]


def test_the_first_rows_have_a_limited_size() -> None:
    rows = [chat_of("x" * 10**6, "y") | {f"key{n}": n for n in range(1_000)}]
    _, _, sample = validated_file(jsonl(rows * 2))
    assert len(json.dumps(sample)) < 100_000
    assert sample["rows"][0]["value"]["messages"][0]["content"] == SYSTEM
