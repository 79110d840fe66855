"""Normalized output, report and warnings of valid uploads."""

from __future__ import annotations

import hashlib
import json

import pytest

from domain.datasets.dataset import DatasetStatus
from services.datasets.report import Code, Progress, Report
from services.datasets.validation import PROGRESS_BYTES
from tests.services.datasets.uploads import (
    ANSWER,
    ASSISTANT,
    CALL,
    CALLING,
    GOOD,
    USER,
    arguments,
    chat,
    jsonl,
    nested,
    normalized,
    user,
    validated,
)


def compact(*examples: object) -> bytes:
    return b"".join(
        json.dumps(example, separators=(",", ":")).encode() + b"\n" for example in examples
    )


def warnings(report: Report) -> list[tuple[str, int, tuple[int, ...]]]:
    return [(notice.code, notice.count, notice.lines) for notice in report.warnings]


def test_a_file_of_exactly_the_limit_is_accepted() -> None:
    content = jsonl(GOOD)
    report, _, _ = validated(content, max_bytes=len(content), max_line_bytes=len(content))
    assert report.status is DatasetStatus.READY_FOR_TRAINING


def test_a_byte_order_mark_is_removed_with_a_warning() -> None:
    report, output, _ = validated(b"\xef\xbb\xbf" + jsonl(GOOD))
    assert json.loads(output) == GOOD
    assert warnings(report) == [(Code.BYTE_ORDER_MARK, 1, (1,))]


def test_crlf_is_accepted_and_gives_the_same_output() -> None:
    content = jsonl(GOOD, chat(user("Hi"), ASSISTANT))
    report, output, _ = validated(content.replace(b"\n", b"\r\n"))
    assert report.warnings == ()
    assert output == compact(GOOD, chat(user("Hi"), ASSISTANT))


def test_blank_lines_are_skipped_and_counted_in_line_numbers() -> None:
    report, _, _ = validated(b"\n" * 1_100 + b" \r\n" + jsonl(GOOD) + b"{")
    assert (report.lines, report.examples) == (1_103, 1)
    assert report.errors[0].line == 1_103
    assert (report.warnings[0].code, report.warnings[0].count) == (Code.BLANK_LINES, 1_101)
    assert "1,101" in report.warnings[0].message


def test_duplicates_are_kept_once_with_a_warning() -> None:
    other = chat(user("Hi"), ASSISTANT)
    spaced = json.dumps(GOOD, separators=(" , ", " : ")).encode() + b"\n"
    report, output, _ = validated(jsonl(GOOD, other, GOOD) + spaced)
    assert (report.examples, report.duplicates, report.lines) == (2, 2, 4)
    assert output == compact(GOOD, other)
    assert warnings(report) == [(Code.DUPLICATE_LINES, 2, (3, 4))]
    assert "3, 4" in report.warnings[0].message


def test_duplicates_are_kept_on_request() -> None:
    report, output, _ = validated(jsonl(GOOD, GOOD), keep_duplicates=True)
    assert (report.examples, report.duplicates, report.warnings) == (2, 0, ())
    assert output == compact(GOOD, GOOD)


def test_unused_keys_are_ignored_with_a_warning_that_names_them() -> None:
    asks_twice = chat({**USER, "refusal": "x"}, ASSISTANT, USER, ASSISTANT)
    report, output, _ = validated(jsonl({**GOOD, "tools": [], "id": 4, "note": None}, asks_twice))
    assert output == compact(GOOD, chat(USER, ASSISTANT, USER, ASSISTANT))
    assert warnings(report) == [
        (Code.UNUSED_KEYS, 1, (1,)),
        (Code.UNUSED_MESSAGE_KEYS, 1, (2,)),
    ]
    keys, message_keys = (notice.message for notice in report.warnings)
    assert '"id"' in keys
    assert '"note"' not in keys
    assert '"refusal"' in message_keys


LOOK = {"type": "function", "function": {"name": "look", "strict": True}}


def test_tool_definitions_stay_in_the_examples_as_written() -> None:
    with_functions = chat(user("Where?"), ASSISTANT) | {"functions": [LOOK["function"]]}
    lines = [GOOD | {"tools": [LOOK]}, with_functions, chat(user("Hi"), ASSISTANT) | {"tools": []}]
    report, output, _ = validated(jsonl(*lines))
    assert (report.examples_with_tools, report.tool_lines) == (2, 0)
    assert warnings(report) == []
    examples = [json.loads(line) for line in output.splitlines()]
    assert [example.get("tools") for example in examples] == [[LOOK], [LOOK], None]


def test_tool_definitions_are_left_out_if_the_upload_ignores_them() -> None:
    malformed = chat(user("Hi"), ASSISTANT) | {"tools": [5]}
    report, output, _ = validated(jsonl(GOOD | {"tools": [LOOK]}, malformed), ignore_tools=True)
    assert (report.examples_with_tools, report.tool_lines) == (0, 2)
    assert warnings(report) == [(Code.TOOL_DEFINITIONS, 2, (1, 2))]
    assert b"tools" not in output


def test_calls_that_do_not_match_the_tools_are_warned_about() -> None:
    parameters = {"type": "object", "properties": {"at": {"type": "string"}}}
    strict = {"type": "function", "function": {"name": "look", "parameters": parameters}}
    calls = [USER, CALLING, ANSWER, ASSISTANT]
    other = [user("Hi"), *calls[1:]]
    report, _, _ = validated(jsonl(chat(*calls) | {"tools": [strict]}, chat(*other)))
    assert warnings(report) == [
        (Code.ARGUMENTS_DIFFER, 1, (1,)),
        (Code.CALLS_WITHOUT_TOOLS, 1, (2,)),
    ]
    assert '"look"' in report.warnings[0].message


def test_openais_older_form_of_calls_becomes_tool_calls() -> None:
    calling = {"role": "assistant", "content": None, "function_call": CALL["function"]}
    answer = {"role": "function", "name": "look", "content": "Sunny."}
    assert normalized(chat(USER, calling, answer, ASSISTANT)) == [
        USER,
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {"type": "function", "function": {"name": "look", "arguments": {"at": 1}}}
            ],
        },
        {"role": "tool", "content": "Sunny.", "name": "look"},
        ASSISTANT,
    ]


def test_late_system_and_trailing_user_messages_are_warned_about() -> None:
    system = {"role": "system", "content": "Be brief."}
    report, _, _ = validated(
        jsonl(chat(system, system, USER, ASSISTANT), chat(USER, system, ASSISTANT, USER))
    )
    assert report.status is DatasetStatus.READY_FOR_TRAINING
    assert warnings(report) == [
        (Code.SYSTEM_NOT_FIRST, 1, (2,)),
        (Code.ENDS_WITHOUT_ASSISTANT, 1, (2,)),
    ]


def test_prompt_and_completion_become_a_chat() -> None:
    assert normalized({"prompt": "a", "completion": "b"}) == [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
    ]


def test_only_the_completion_has_loss() -> None:
    example = {
        "prompt": [USER, ASSISTANT, USER, {**ASSISTANT, "weight": 1}, USER],
        "completion": [ASSISTANT],
        "messages": None,
    }
    weights = [message.get("weight") for message in normalized(example)]
    assert weights == [None, 0, None, 1, None, None]


def test_weights_and_names_are_kept_for_their_roles() -> None:
    example = chat(
        {**USER, "name": "ann", "weight": 1},
        {**ASSISTANT, "weight": 0, "name": None},
        USER,
        {**ASSISTANT, "weight": 1},
    )
    assert normalized(example) == [
        {**USER, "name": "ann"},
        {**ASSISTANT, "weight": 0},
        USER,
        {**ASSISTANT, "weight": 1},
    ]


def test_a_developer_message_becomes_a_system_message() -> None:
    developer = {"role": "developer", "content": "Be brief."}
    assert normalized(chat(developer, USER, ASSISTANT))[0]["role"] == "system"


def test_text_parts_are_joined() -> None:
    parts = [{"type": "text", "text": "What is"}, {"type": "text", "text": " love?"}]
    assert normalized(chat(user(parts), ASSISTANT))[0]["content"] == "What is love?"


@pytest.mark.parametrize("content", [None, "", "Let me look."])
def test_tool_calls_need_no_content_and_get_arguments_as_objects(content: str | None) -> None:
    silent = {**ANSWER, "content": ""}
    messages = normalized(chat(USER, {**CALLING, "content": content}, ANSWER, silent, ASSISTANT))
    assert messages[1] == {
        "role": "assistant",
        "content": content or "",
        "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "look", "arguments": {"at": 1}}}
        ],
    }
    assert messages[2:4] == [
        {"role": "tool", "content": "Sunny.", "tool_call_id": "c1"},
        {"role": "tool", "content": "", "tool_call_id": "c1"},
    ]


def test_tool_calls_may_have_no_ids_and_nest_to_the_limit() -> None:
    example = arguments(nested(32))
    example["messages"].append({"role": "tool", "content": "x"})  # type: ignore[attr-defined]
    assert len(normalized(example)) == 3


def test_an_escaped_null_in_text_is_valid() -> None:
    assert normalized(chat(user("write \\u0000"), ASSISTANT))[0]["content"] == "write \\u0000"


def test_the_report_describes_the_output() -> None:
    report, output, _ = validated(jsonl(GOOD, chat(user("Zoë 😀"), ASSISTANT)))
    assert report.sha256 == hashlib.sha256(output).hexdigest()
    assert report.normalized_bytes == len(output)
    assert "Zoë 😀".encode() in output


def test_progress_comes_about_every_four_mebibytes_and_at_the_end() -> None:
    line = jsonl(chat(user("x" * 50_000), ASSISTANT))
    count = 3 * PROGRESS_BYTES // len(line)
    report, _, progress = validated(line * count, max_bytes=2**30)
    assert len(progress) == 3
    assert progress == sorted(progress)
    assert progress[-1] == Progress(count, len(line) * count) == (report.lines, report.bytes)
