"""Known keys that the first rows of a JSON file do not have, or whose values are unsuitable."""

from __future__ import annotations

import json
from typing import Any

import pytest

from domain.datasets.columns import Role
from services.datasets.report import Code
from tests.services.datasets.formats import array, jsonl, parquet, table, validated_file

EARLIER = 60
TOOL = {"name": "cancel", "parameters": {"type": "object", "properties": {}}}

CHAT = {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]}
SHAREGPT = {"conversations": [{"from": "human", "value": "?"}, {"from": "gpt", "value": "!"}]}
ALPACA = {"instruction": "?", "output": "!"}
DPO = {"prompt": "?", "chosen": "!", "rejected": "."}
LATE: dict[str, tuple[dict[str, Any], dict[str, Any], Role]] = {
    "OpenAI system": (CHAT, {"system": "Be brief."}, Role.SYSTEM),
    "ShareGPT system": (SHAREGPT, {"system": "Be brief."}, Role.SYSTEM),
    "ShareGPT tools": (SHAREGPT, {"tools": json.dumps([TOOL])}, Role.TOOLS),
    "ShareGPT tool": (SHAREGPT, {"tools": json.dumps(TOOL)}, Role.TOOLS),
    "Alpaca system": (ALPACA, {"system_prompt": "Be brief."}, Role.SYSTEM),
    "Alpaca input": (ALPACA, {"input": "More."}, Role.INPUT),
    "Alpaca history": (ALPACA, {"history": [["a", "b"]]}, Role.HISTORY),
    "Alpaca weight": (ALPACA, {"weight": 1}, Role.WEIGHT),
    "DPO system": (DPO, {"system": "Be brief."}, Role.SYSTEM),
    "DPO input": (DPO, {"input": "More."}, Role.INPUT),
    "DPO history": (DPO, {"history": [["a", "b"]]}, Role.HISTORY),
    "DPO tools": (DPO, {"tools": [TOOL]}, Role.TOOLS),
}


def _numbered(row: dict[str, Any]) -> list[dict[str, Any]]:
    text = json.dumps(row)
    return [json.loads(text.replace("?", f"Question {number}")) for number in range(EARLIER)]


@pytest.mark.parametrize("write", [jsonl, array])
@pytest.mark.parametrize(("row", "more", "role"), LATE.values(), ids=LATE)
def test_a_late_key_counts_as_in_the_first_row(
    row: dict[str, Any], more: dict[str, Any], role: Role, write: Any
) -> None:
    _, (expected, *_), _ = validated_file(write([row | more, *_numbered(row)]))
    _, (plain,), _ = validated_file(write([row]))
    report, (*earlier, last), sample = validated_file(write([*_numbered(row), row | more]))
    assert (len(earlier), last) == (EARLIER, expected)
    assert last != plain
    assert report.columns[role] == next(iter(more))
    assert next(iter(more)) in sample["names"]
    assert report.warnings == ()


def test_an_unsuitable_late_value_is_refused() -> None:
    report, _, _ = validated_file(jsonl([*_numbered(ALPACA), ALPACA | {"system": 3}]))
    assert [(each.line, each.code) for each in report.errors] == [
        (EARLIER + 1, Code.CONTENT_NOT_TEXT)
    ]
    assert '"system"' in report.errors[0].message


@pytest.mark.parametrize("key", ["preferred", "rejected"])
def test_a_late_answer_of_a_pair_is_refused(key: str) -> None:
    report, _, _ = validated_file(jsonl([*_numbered(ALPACA), ALPACA | {key: "."}]))
    assert [(each.line, each.code) for each in report.errors] == [(EARLIER + 1, Code.MIXED_KINDS)]


@pytest.mark.parametrize("write", [table, parquet])
@pytest.mark.parametrize("name", ["chosen", "non_preferred_output"])
def test_answers_of_pairs_only_in_later_rows_of_a_table_are_refused(name: str, write: Any) -> None:
    rows = [each | {"id": "1", name: ""} for each in [*_numbered(ALPACA), ALPACA]]
    report, examples, _ = validated_file(write(rows))
    assert (report.errors, len(examples)) == ((), EARLIER + 1)
    rows[-1] |= {name: "."}
    report, _, _ = validated_file(write(rows))
    assert [(each.line, each.code) for each in report.errors] == [(EARLIER + 1, Code.MIXED_KINDS)]
    assert f'without "{name}"' in report.errors[0].message
    chosen = {Role.USER: "instruction", Role.ASSISTANT: "output"}
    report, examples, _ = validated_file(write(rows), columns=chosen)
    assert (report.errors, len(examples)) == ((), EARLIER + 1)


@pytest.mark.parametrize("write", [table, parquet])
@pytest.mark.parametrize("chosen", [None, {Role.USER: "instruction", Role.ASSISTANT: "output"}])
def test_a_warning_names_the_columns_of_a_table_that_training_ignores(
    chosen: dict[Role, str] | None, write: Any
) -> None:
    rows = [each | {"id": "1", "chosen": "", "rejected": ""} for each in _numbered(ALPACA)]
    report, _, _ = validated_file(write(rows), columns=chosen)
    assert [(each.code, each.lines) for each in report.warnings] == [(Code.UNUSED_COLUMNS, ())]
    assert '"id", "chosen", "rejected"' in report.warnings[0].message


def test_chosen_columns_of_json_ignore_the_answers_of_pairs() -> None:
    chosen = {Role.USER: "instruction", Role.ASSISTANT: "output"}
    rows = [ALPACA | {"preferred_output": "."}]
    report, examples, _ = validated_file(jsonl(rows), columns=chosen)
    assert (report.errors, len(examples)) == ((), 1)
    assert [each.code for each in report.warnings] == [Code.UNUSED_KEYS]


@pytest.mark.parametrize("write", [jsonl, array, table])
@pytest.mark.parametrize("more", [{"tools": "a hammer"}, {"weight": "0.7"}, {"history": "none"}])
def test_the_user_decides_about_a_known_column_with_other_values(
    more: dict[str, Any], write: Any
) -> None:
    name = next(iter(more))
    rows = [ALPACA | more, {"instruction": "a", "output": "b", name: ""}]
    report, _, _ = validated_file(write(rows))
    assert [(each.line, each.code) for each in report.errors] == [(None, Code.UNKNOWN_COLUMNS)]
    assert f'without "{name}"' in report.errors[0].message
    chosen = {Role.USER: "instruction", Role.ASSISTANT: "output"}
    report, examples, _ = validated_file(write(rows), columns=chosen)
    assert (report.errors, len(examples)) == ((), 2)


def test_keys_without_a_role_are_reported() -> None:
    rows = [*_numbered(ALPACA), ALPACA | {"source": "web", "empty": None, "prompt": "x"}]
    report, _, _ = validated_file(jsonl(rows))
    (warning,) = report.warnings
    assert (warning.code, warning.lines) == (Code.UNUSED_KEYS, (EARLIER + 1,))
    assert '"source", "prompt"' in warning.message


def test_chosen_columns_stay_as_they_are() -> None:
    chosen = {Role.USER: "instruction", Role.ASSISTANT: "output"}
    rows = [*_numbered(ALPACA), ALPACA | {"system": "Be brief."}]
    report, (*_, last), _ = validated_file(jsonl(rows), columns=chosen)
    assert [each["role"] for each in last["messages"]] == ["user", "assistant"]
    assert [each.code for each in report.warnings] == [Code.UNUSED_KEYS]


@pytest.mark.parametrize("write", [jsonl, array])
def test_a_column_of_a_late_row_can_be_chosen(write: Any) -> None:
    rows = [*_numbered(ALPACA), ALPACA | {"context": "Be brief."}]
    chosen = {Role.SYSTEM: "context", Role.USER: "instruction", Role.ASSISTANT: "output"}
    report, (*_, last), _ = validated_file(write(rows), columns=chosen)
    assert (report.errors, last["messages"][0]["content"]) == ((), "Be brief.")


@pytest.mark.parametrize("write", [jsonl, array])
def test_a_chosen_column_that_no_row_has_is_reported(write: Any) -> None:
    chosen = {Role.SYSTEM: "sytem", Role.USER: "instruction", Role.ASSISTANT: "output"}
    report, _, _ = validated_file(write(_numbered(ALPACA)), columns=chosen)
    assert [(each.line, each.code) for each in report.errors] == [(None, Code.MISSING_COLUMN)]
    assert '"instruction", "output"' in report.errors[0].message


def test_two_system_prompts_of_one_row_are_refused() -> None:
    system = {"from": "system", "value": "Be kind."}
    rows = [{"conversations": [system, *SHAREGPT["conversations"]], "system": "Be brief."}]
    report, _, _ = validated_file(jsonl(rows))
    assert [each.code for each in report.errors] == [Code.AMBIGUOUS_EXAMPLE]


def test_text_cannot_be_added_to_messages() -> None:
    rows = [ALPACA | {"instruction": CHAT["messages"][:1], "input": "More."}]
    report, _, _ = validated_file(jsonl(rows))
    assert [each.code for each in report.errors] == [Code.AMBIGUOUS_EXAMPLE]


@pytest.mark.parametrize("write", [jsonl, array])
def test_another_key_stands_for_an_empty_one(write: Any) -> None:
    brief = ALPACA | {"system": "Be brief."}
    rows = [brief, brief | {"system": "", "system_prompt": "Be brief.", "output": "?"}]
    _, examples, _ = validated_file(write(rows))
    assert [each["messages"][0]["content"] for each in examples] == ["Be brief."] * 2
    rows = [SHAREGPT | {"tools": None, "functions": [TOOL]}]
    report, (example,), _ = validated_file(write(rows))
    assert (report.warnings, example["tools"][0]["function"]) == ((), TOOL)


@pytest.mark.parametrize("late", [False, True])
def test_earlier_turns_of_a_pair_need_a_prompt(late: bool) -> None:
    question, answer = CHAT["messages"]
    both = {"chosen": [question, answer], "rejected": [question, {**answer, "content": "."}]}
    rows = [both, both | {"history": [["a", "b"]]}]
    report, _, _ = validated_file(jsonl(rows if late else rows[::-1]))
    assert [(each.line, each.code) for each in report.errors] == [(1 + late, Code.BAD_PROMPT)]
