"""One bad cell in files of every format: an error of its row that hides no other error."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from services.datasets.report import Code
from tests.services.datasets.formats import array, jsonl, parquet, table, validated_file
from tests.services.datasets.uploads import ASSISTANT, USER

Row = dict[str, Any]
ROWS = 120
"""More rows than those from which EcoLink guesses the columns."""

BAD = 731
EMPTY_AT = 60
"""Index of a row with another error, which the bad cell must not hide."""

CALLS = [{"name": "look", "parameters": {"type": "object"}}]
TURNS = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]
ALPACA = {"instruction": "Add", "input": "", "output": "3", "system": "", "history": []}
PAIR = {"prompt": "Hi", "chosen": "Hello", "rejected": "Bye"}
OPENAI_PAIR = {
    "input": {"messages": [USER]},
    "preferred_output": [ASSISTANT],
    "non_preferred_output": [ASSISTANT | {"content": "Bye"}],
}
JSON_FORMATS: dict[str, tuple[Row, str, list[str]]] = {
    "messages": ({"messages": [USER, ASSISTANT], "tools": None}, "messages", ["messages", "tools"]),
    "prompt and completion": (
        {"prompt": "Hi", "completion": "Hello"},
        "completion",
        ["prompt", "completion"],
    ),
    "ShareGPT": (
        {"conversations": TURNS, "system": "Be kind.", "tools": CALLS},
        "conversations",
        ["conversations", "system", "tools"],
    ),
    "Alpaca": (ALPACA, "output", [*ALPACA, "weight"]),
    "columns": ({"question": "Hi", "answer": "Hello"}, "answer", ["question", "answer"]),
    "preferences": (PAIR, "chosen", [*PAIR]),
    "OpenAI preferences": (OPENAI_PAIR, "preferred_output", [*OPENAI_PAIR]),
}
"""A row of each format, its answer, and the columns that get a bad cell."""

CELLS = [
    (*JSON_FORMATS[name][:2], column) for name in JSON_FORMATS for column in JSON_FORMATS[name][2]
]
IDS = [f"{name}, {column}" for name in JSON_FORMATS for column in JSON_FORMATS[name][2]]


def _as_cells(row: Row) -> Row:
    """Return a row whose lists and objects are JSON in text, as in a CSV file."""
    return {
        name: json.dumps(value) if isinstance(value, list | dict) else value
        for name, value in row.items()
    }


def _numbered(value: Any, number: int) -> Any:
    """Return a value with a number in its first text, so that no two rows are equal."""
    if isinstance(value, list):
        return [_numbered(value[0], number), *value[1:]]
    if isinstance(value, dict):
        key = next(key for key in ("messages", "content", "value") if key in value)
        return {**value, key: _numbered(value[key], number)}
    return f"{value} {number}"


def _rows(row: Row, answer: str) -> list[Row]:
    first = next(iter(row)) if answer != "chosen" else "prompt"
    return [{**row, first: _numbered(row[first], number)} for number in range(ROWS)]


def _check(content: bytes, answer: str, at: int, column: str, shown: str) -> None:
    """Assert that a file has an error for the bad cell, one for the empty answer, and no other."""
    report, _, _ = validated_file(content)
    errors = {error.line: error for error in report.errors}
    assert sorted(errors, key=lambda line: line or 0) == sorted({at + 1, EMPTY_AT + 1})
    assert report.error_count == 2
    assert column in errors[at + 1].message
    assert shown in errors[at + 1].message
    other = errors[EMPTY_AT + 1].message
    assert answer in other or "(assistant) is empty" in other


@pytest.mark.full
@pytest.mark.parametrize("at", [0, 30, 90, ROWS - 1])
@pytest.mark.parametrize("write", [jsonl, array])
@pytest.mark.parametrize(("row", "answer", "column"), CELLS, ids=IDS)
def test_a_bad_cell_in_json_is_the_error_of_its_row(
    row: Row, answer: str, column: str, write: Callable[[Sequence[Any]], bytes], at: int
) -> None:
    rows = _rows(row, answer)
    rows[EMPTY_AT][answer] = [] if isinstance(row[answer], list) else ""
    rows[at] = rows[at] | {column: BAD}
    _check(write(rows), answer, at, column, str(BAD))


TABLES = [
    ({"messages": [USER, ASSISTANT], "id": "1"}, "messages", "messages", "hm"),
    ({"conversations": TURNS, "tools": CALLS}, "conversations", "conversations", "hm"),
    ({"conversations": TURNS, "tools": CALLS}, "conversations", "tools", "hm"),
    ({"instruction": "Add", "output": "3", "history": ""}, "output", "history", "hm"),
    ({"instruction": "Add", "output": "3", "weight": "1"}, "output", "weight", "0.7"),
    ({"instruction": "Add", "output": "3", "weight": ""}, "output", "weight", "0.7"),
    ({"prompt": "Hi", "completion": "Hello"}, "completion", "prompt", ""),
    ({"question": "Hi", "answer": "Hello"}, "answer", "question", ""),
    (PAIR, "chosen", "rejected", ""),
]
"""Rows of tables, in which a bad cell has text: the row, its answer, the column and its value."""


@pytest.mark.full
@pytest.mark.parametrize("at", [0, 30, 90, ROWS - 1])
@pytest.mark.parametrize("write", [table, parquet])
@pytest.mark.parametrize(("row", "answer", "column", "bad"), TABLES)
def test_a_bad_cell_of_a_table_is_the_error_of_its_row(
    row: Row, answer: str, column: str, bad: str, write: Callable[[Sequence[Row]], bytes], at: int
) -> None:
    rows = _rows(row, answer)
    rows[EMPTY_AT][answer] = ""
    rows[at] = rows[at] | {column: bad}
    _check(write(list(map(_as_cells, rows))), answer, at, column, bad)


@pytest.mark.parametrize("at", [0, 30, 90, ROWS - 1])
@pytest.mark.parametrize(
    ("row", "column", "bad"),
    [
        ({"messages": [USER, ASSISTANT]}, "messages", None),
        ({"messages": [USER, ASSISTANT]}, "messages", [USER | {"content": None}]),
        ({"conversations": TURNS}, "conversations", [TURNS[0] | {"from": "alien"}]),
        (OPENAI_PAIR, "preferred_output", []),
    ],
)
def test_a_bad_cell_of_nested_parquet_is_the_error_of_its_row(
    row: Row, column: str, bad: Any, at: int
) -> None:
    rows = [row] * ROWS
    rows[at] = row | {column: bad}
    report, _, _ = validated_file(parquet(rows))
    assert [error.line for error in report.errors] == [at + 1]
    assert column in report.errors[0].message


@pytest.mark.parametrize("name", ["instruction", "messages", "conversations", "prompt"])
def test_no_reading_ignores_a_known_key_with_other_values(name: str) -> None:
    rows = [{name: number, "input": "a", "answer": "b"} for number in (41, 42, 43)]
    for write in (jsonl, array, parquet):
        report, _, _ = validated_file(write(rows))
        message = report.errors[0].message
        assert name in message
        assert "41" in message or '"prompt" and "completion"' in message


@pytest.mark.full
@pytest.mark.parametrize(
    "odd",
    [
        {"messages": [USER, ASSISTANT]},
        {"prompt": "Hi", "completion": "Hello"},
        {"question": "Hi", "answer": "Hello"},
        PAIR,
        OPENAI_PAIR,
    ],
)
@pytest.mark.parametrize("row", [ALPACA, PAIR, {"messages": [USER, ASSISTANT]}])
@pytest.mark.parametrize("at", [0, 30, 90])
def test_a_row_of_another_form_is_the_only_error(row: Row, odd: Row, at: int) -> None:
    rows = [row] * ROWS
    rows[at] = odd
    report, _, _ = validated_file(jsonl(rows))
    same_form = odd == row or ("messages" in row and {"messages", "completion"} & set(odd))
    assert [error.line for error in report.errors] == ([] if same_form else [at + 1])
    if ("chosen" in row) != bool({"chosen", "preferred_output"} & set(odd)):
        assert report.errors[0].code == Code.MIXED_KINDS


@pytest.mark.parametrize("write", [jsonl, array, parquet])
@pytest.mark.parametrize("known", ["prompt", "completion", "question"])
def test_an_answer_with_an_unknown_name_needs_a_choice(known: str, write: Any) -> None:
    rows = [{known: f"def f{n}():", "canonical": "x", "test": "y"} for n in range(164)]
    report, _, _ = validated_file(write(rows))
    assert [(each.line, each.code) for each in report.errors] == [(None, Code.UNKNOWN_COLUMNS)]
    assert '"canonical"' in report.errors[0].message
