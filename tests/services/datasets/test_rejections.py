"""Each rule of the validation rejects an upload with its own code."""

from __future__ import annotations

import json
from typing import Any

import pytest

from domain.datasets.dataset import DatasetStatus
from services.datasets.findings import ERRORS_SHOWN
from services.datasets.json_line import REASONS
from services.datasets.report import Code, Progress
from services.datasets.structure import SPREAD, UNSUPPORTED
from tests.services.datasets.uploads import (
    ANSWER,
    ASSISTANT,
    CALL,
    CALLING,
    GOOD,
    USER,
    arguments,
    calling,
    chat,
    jsonl,
    nested,
    user,
    validated,
)


def malformed(reason: str, column: int) -> tuple[str, ...]:
    """Return parts of a message about malformed JSON."""
    return f"column {column}", REASONS[reason]


def tool(**function: Any) -> dict[str, Any]:
    return {"type": "function", "function": function}


def defining(tools: object) -> dict[str, Any]:
    """Return an example with these tool definitions."""
    return {**GOOD, "tools": tools}


TWO_CALLS = {**CALLING, "tool_calls": [CALL, {**CALL, "id": "c2"}]}
EQUAL_IDS = {**CALLING, "tool_calls": [CALL, CALL]}
UNNAMED_CALLS = {**CALLING, "tool_calls": [{"function": CALL["function"]}] * 2}
RESULT = {"role": "tool", "content": "Sunny."}
REMOTE = "http://127.0.0.1:9/schema.json"

LINE_ERRORS: list[tuple[Any, Code, tuple[str, ...]]] = [
    (b'{"messages": [}', Code.MALFORMED_JSON, malformed("Expecting value", 15)),
    (b'{"messages" []}', Code.MALFORMED_JSON, malformed("Expecting ':' delimiter", 13)),
    (b'{"messages": [] "a": 1}', Code.MALFORMED_JSON, malformed("Expecting ',' delimiter", 17)),
    (b'{"messages": [], a: 1}', Code.MALFORMED_JSON, malformed("Expecting property name", 18)),
    (b"{'messages': []}", Code.MALFORMED_JSON, malformed("Expecting property name", 2)),
    (b'{"a": 1} {"b": 2}', Code.MALFORMED_JSON, malformed("Extra data", 10)),
    (b'{"a": "x\ty"}', Code.MALFORMED_JSON, malformed("Invalid control character", 9)),
    (b'{"a": "x\\qy"}', Code.MALFORMED_JSON, malformed("Invalid \\escape", 9)),
    (b'{"a": "x', Code.MALFORMED_JSON, (REASONS["Unterminated string"],)),
    (b"{", Code.MALFORMED_JSON, ()),
    (b"plain text", Code.MALFORMED_JSON, ("column 1",)),
    (b"[" * 50_000, Code.TOO_DEEP, ()),
    (b'{"a": NaN}', Code.BAD_NUMBER, ("NaN",)),
    (b'{"a": 1e999}', Code.BAD_NUMBER, ("1e999",)),
    (b'{"a": 1' + b"0" * 5000 + b"}", Code.BAD_NUMBER, ()),
    (b'{"messages": [], "messages": []}', Code.DUPLICATE_KEY, ('"messages"',)),
    (b'{"messages": [{"role": "user", "r\\u006fle": "tool"}]}', Code.DUPLICATE_KEY, ('"role"',)),
    (b'{"a": "caf\xe9"}', Code.BAD_UTF8, ("0xe9", "10")),
    (b'{"a": "\xed\xa0\x80"}', Code.BAD_UTF8, ("0xed", "7")),
    (b"[1, 2]", Code.NOT_OBJECT, ()),
    (b'"text"', Code.NOT_OBJECT, ('"text"',)),
    (b'{"a": "' + b"x" * 100_000 + b'"}', Code.LINE_TOO_LONG, ("97.7 KiB",)),
    (jsonl(chat(user("a\ud800"), ASSISTANT)), Code.LONE_SURROGATE, ()),
    (jsonl(arguments({"\ud800": 1})), Code.LONE_SURROGATE, ()),
    (jsonl(chat(user("a\0b"), ASSISTANT)), Code.NULL_CHARACTER, ()),
    (jsonl(arguments({"a": [{"\0": 1}]})), Code.NULL_CHARACTER, ()),
    ({"conversations": []}, Code.MISSING_MESSAGES, ('"conversations"',)),
    ({"messages": None, "text": "x"}, Code.MISSING_MESSAGES, ()),
    ({**GOOD, "prompt": "a", "completion": "b"}, Code.AMBIGUOUS_EXAMPLE, ()),
    ({"prompt": "a"}, Code.BAD_COMPLETION, ()),
    ({"completion": "a"}, Code.BAD_PROMPT, ()),
    ({"prompt": [], "completion": "b"}, Code.BAD_PROMPT, ()),
    ({"prompt": "a", "completion": [USER]}, Code.NO_ASSISTANT, ()),
    ({"prompt": [USER, ASSISTANT], "completion": [USER]}, Code.NOTHING_TO_LEARN, ()),
    ({"messages": "hello"}, Code.MESSAGES_NOT_LIST, ()),
    ({"messages": []}, Code.NO_MESSAGES, ()),
    (chat(ASSISTANT, USER), Code.FIRST_MESSAGE, ()),
    (chat(USER), Code.NO_ASSISTANT, ()),
    (chat(USER, {**ASSISTANT, "weight": 0}), Code.NOTHING_TO_LEARN, ()),
    (chat(USER, "hello"), Code.MESSAGE_NOT_OBJECT, ("2",)),
    (chat({"content": "x"}), Code.MISSING_ROLE, ("1",)),
    (chat({"role": "human", "content": "x"}), Code.WRONG_ROLE, ('"human"',)),
    (chat({"role": ["user"], "content": "x"}), Code.WRONG_ROLE, ()),
    (chat(user(""), ASSISTANT), Code.EMPTY_CONTENT, ("1", "user")),
    (chat(user(" \n"), ASSISTANT), Code.EMPTY_CONTENT, ("1", "user")),
    (chat(user(None), ASSISTANT), Code.EMPTY_CONTENT, ("1", "user")),
    (chat(user([]), ASSISTANT), Code.EMPTY_CONTENT, ("1", "user")),
    (chat(USER, {**CALLING, "tool_calls": []}), Code.EMPTY_CONTENT, ("2", "assistant")),
    (chat(USER, CALLING, {**ANSWER, "content": None}), Code.EMPTY_CONTENT, ("3", "tool")),
    (chat(user(7), ASSISTANT), Code.CONTENT_NOT_TEXT, ("7",)),
    (chat(user(["x"]), ASSISTANT), Code.CONTENT_NOT_TEXT, ('"x"',)),
    (chat(user([{"type": "text"}]), ASSISTANT), Code.CONTENT_NOT_TEXT, ()),
    (chat(user([{"type": "image_url"}]), ASSISTANT), Code.UNSUPPORTED_CONTENT, ()),
    (chat(user([{"text": "x"}]), ASSISTANT), Code.UNSUPPORTED_CONTENT, ("null",)),
    (chat(USER, {**ASSISTANT, "weight": 2}), Code.BAD_WEIGHT, ("2",)),
    (chat(USER, {**ASSISTANT, "weight": True}), Code.BAD_WEIGHT, ("true",)),
    (chat({**USER, "name": 3}, ASSISTANT), Code.BAD_NAME, ("3", "1")),
    (calling("look"), Code.BAD_TOOL_CALLS, ()),
    (calling(["look"]), Code.BAD_TOOL_CALLS, ()),
    (calling([{**CALL, "type": "magic"}]), Code.BAD_TOOL_CALLS, ()),
    (calling([{"id": "c1", "type": "function"}]), Code.BAD_TOOL_CALLS, ()),
    (calling([{"function": {"arguments": "{}"}}]), Code.BAD_TOOL_CALLS, ()),
    (calling([{**CALL, "id": 4}]), Code.BAD_TOOL_CALLS, ()),
    (arguments("{"), Code.BAD_TOOL_ARGUMENTS, ()),
    (arguments('{"a": 1, "a": 2}'), Code.BAD_TOOL_ARGUMENTS, ('"a"',)),
    (arguments("[" * 50_000), Code.BAD_TOOL_ARGUMENTS, ()),
    (arguments(None), Code.BAD_TOOL_ARGUMENTS, ()),
    (arguments(nested(33)), Code.TOO_DEEP, ("32",)),
    (chat(USER, CALLING, {**ANSWER, "tool_call_id": 1}), Code.BAD_TOOL_CALL_ID, ("1",)),
    (chat(USER, CALLING, {**ANSWER, "tool_call_id": "x"}), Code.BAD_TOOL_CALL_ID, ()),
    (chat(USER, CALLING, {"role": "tool", "content": "x"}), Code.BAD_TOOL_CALL_ID, ()),
    (chat(USER, EQUAL_IDS, ANSWER, ASSISTANT), Code.BAD_TOOL_CALLS, ("2", '"c1"')),
    (chat(USER, EQUAL_IDS, ANSWER, ANSWER), Code.BAD_TOOL_CALLS, ("2", '"c1"')),
    (
        chat(USER, EQUAL_IDS, ANSWER, {**ANSWER, "tool_call_id": "c2"}),
        Code.BAD_TOOL_CALLS,
        ("2",),
    ),
    (calling([CALL, CALL]), Code.BAD_TOOL_CALLS, ("2", '"c1"')),
    (chat(USER, ASSISTANT, ANSWER), Code.ORPHAN_TOOL_MESSAGE, ("3",)),
    (chat(ANSWER, USER, ASSISTANT), Code.ORPHAN_TOOL_MESSAGE, ("1",)),
    (chat(USER, CALLING, USER, ANSWER), Code.ORPHAN_TOOL_MESSAGE, ("4",)),
    (chat(USER, CALLING, USER, ASSISTANT), Code.UNANSWERED_CALL, ("2", '"c1"')),
    (chat(USER, CALLING, ASSISTANT), Code.UNANSWERED_CALL, ("2", '"c1"')),
    (chat(USER, TWO_CALLS, ANSWER, ASSISTANT), Code.UNANSWERED_CALL, ("2", '"c2"')),
    (chat(USER, UNNAMED_CALLS, RESULT, ASSISTANT), Code.UNANSWERED_CALL, ("1 of its 2",)),
    (chat(USER, {**CALLING, "function_call": {}}), Code.BAD_TOOL_CALLS, ("2", "function_call")),
    (defining("look"), Code.BAD_TOOLS, ('"tools"', '"look"')),
    (defining([5]), Code.BAD_TOOLS, ("Tool 1",)),
    (defining([{"name": "look"}]), Code.BAD_TOOLS, ("Tool 1", '"type"')),
    (defining([{"type": "function"}]), Code.BAD_TOOLS, ("Tool 1", '"function"')),
    (defining([tool(name=None)]), Code.BAD_TOOLS, ("tool 1", "null")),
    (defining([tool(name="a b")]), Code.BAD_TOOLS, ("tool 1", '"a b"')),
    (defining([tool(name="look", description=5)]), Code.BAD_TOOLS, ('"look"', "5")),
    (defining([tool(name="look", parameters=[])]), Code.BAD_TOOLS, ('"look"', "a list")),
    (defining([tool(name="a"), tool(name="a")]), Code.BAD_TOOLS, ('"a"',)),
    (defining([tool(name="look", parameters={"type": "text"})]), Code.BAD_TOOLS, ('"text"',)),
    (defining([tool(name="look", parameters={"$ref": REMOTE})]), Code.BAD_TOOLS, ('"look"',)),
    (defining([tool(name=f"f{n}") for n in range(129)]), Code.BAD_TOOLS, ("129", "128")),
    (defining([tool(name="look", parameters=nested(33))]), Code.TOO_DEEP, ("32",)),
    ({**defining([tool(name="look")]), "functions": [{}]}, Code.BAD_TOOLS, ('"functions"',)),
    (
        {**chat(USER, CALLING), "tools": [tool(name="other")]},
        Code.UNKNOWN_TOOL,
        ("Message 2", '"look"'),
    ),
]


@pytest.mark.parametrize(("line", "code", "shown"), LINE_ERRORS)
def test_an_invalid_line_is_reported(line: Any, code: Code, shown: tuple[str, ...]) -> None:
    content = line.rstrip(b"\n") + b"\n" if isinstance(line, bytes) else jsonl(line)
    report, _, _ = validated(jsonl(GOOD) + content + jsonl(GOOD))
    assert report.status is DatasetStatus.REJECTED
    (error,) = report.errors
    assert (error.line, error.code) == (2, code)
    assert all(each in error.message for each in shown)
    assert (report.lines, report.examples, report.duplicates) == (3, 1, 1)
    assert report.sha256 is None


@pytest.mark.parametrize(
    ("content", "code", "message"),
    [
        *[(content, Code.EMPTY_FILE, "") for content in (b"", b"\r\n \n", b"\xef\xbb\xbf")],
        *[(magic + b"a\n\n\n", Code.UNSUPPORTED_FILE, kind) for magic, kind in UNSUPPORTED.items()],
        (json.dumps(GOOD, indent=2).encode(), Code.UNSUPPORTED_FILE, SPREAD),
        (jsonl(*[chat(user("x" * 99_000), ASSISTANT)] * 11), Code.FILE_TOO_LARGE, "976.6 KiB"),
    ],
)
def test_an_invalid_file_gets_one_error(content: bytes, code: Code, message: str) -> None:
    report, _, progress = validated(content)
    assert report.status is DatasetStatus.REJECTED
    (error,) = report.errors
    assert (error.line, error.code, error.excerpt) == (None, code, None)
    assert message in error.message
    assert progress[-1] == Progress(report.lines, report.bytes)


def test_invalid_json_lines_are_reported_per_line() -> None:
    report, _, _ = validated(b"{\n" + jsonl(GOOD) + b"no json, at all\n[1]\n")
    assert [error.line for error in report.errors] == [1, 3, 4]


def test_every_error_is_counted_and_the_first_hundred_are_kept() -> None:
    report, output, _ = validated(b"{\n" * 250 + jsonl(GOOD))
    assert report.error_count == 250
    assert [error.line for error in report.errors] == list(range(1, ERRORS_SHOWN + 1))
    assert (report.examples, output) == (1, b""), "nothing is written after an error"


def test_trailing_backslashes_do_not_hide_duplicate_keys() -> None:
    turns = [json.dumps(user("C:\\"))] * 4 + ['{"role": "user", "role": "user", "content": "x"}']
    line = '{"messages": [' + ", ".join([*turns, json.dumps(ASSISTANT)]) + "]}"
    report, _, _ = validated(line.encode())
    assert [error.code for error in report.errors] == [Code.DUPLICATE_KEY]
