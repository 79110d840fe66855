"""Rejections: each rule of the validation rejects an upload with its own code."""

from __future__ import annotations

import json

import pytest

from services.datasets.file_format import UNSUPPORTED
from services.datasets.findings import ERRORS_SHOWN
from services.datasets.json_line import REASONS
from services.datasets.report import Code, Progress, Status
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
    validated_chunks,
)


def malformed(reason: str, column: int) -> tuple[str, ...]:
    """The parts of a message about malformed JSON."""
    return f"column {column}", REASONS[reason]


TEXT_ERRORS = [
    (b'{"messages": [}', Code.MALFORMED_JSON, malformed("Expecting value", 15)),
    (b'{"messages" []}', Code.MALFORMED_JSON, malformed("Expecting ':' delimiter", 13)),
    (b'{"messages": [] "a": 1}', Code.MALFORMED_JSON, malformed("Expecting ',' delimiter", 17)),
    (b'{"messages": [], a: 1}', Code.MALFORMED_JSON, malformed("Expecting property name", 18)),
    (b"{'messages': []}", Code.MALFORMED_JSON, malformed("Expecting property name", 2)),
    (b'{"a": 1} {"b": 2}', Code.MALFORMED_JSON, malformed("Extra data", 10)),
    (b'{"a": "x\ty"}', Code.MALFORMED_JSON, malformed("Invalid control character", 9)),
    (b'{"a": "x\x00y"}', Code.MALFORMED_JSON, malformed("Invalid control character", 9)),
    (b'{"a": "x\\qy"}', Code.MALFORMED_JSON, malformed("Invalid \\escape", 9)),
    (b'{"a": "x', Code.MALFORMED_JSON, (REASONS["Unterminated string"],)),
    (b"{", Code.MALFORMED_JSON, ()),
    (b"[", Code.MALFORMED_JSON, ()),
    (b"plain text", Code.MALFORMED_JSON, ("column 1",)),
    (b"[" * 50_000, Code.TOO_DEEP, ()),
    (b'{"a": NaN}', Code.BAD_NUMBER, ("NaN",)),
    (b'{"a": -Infinity}', Code.BAD_NUMBER, ("-Infinity",)),
    (b'{"a": 1e999}', Code.BAD_NUMBER, ("1e999",)),
    (b'{"a": 1' + b"0" * 5000 + b"}", Code.BAD_NUMBER, ()),
    (b'{"messages": [], "messages": []}', Code.DUPLICATE_KEY, ('"messages"',)),
    (b'{"messages": [{"role": "user", "r\\u006fle": "tool"}]}', Code.DUPLICATE_KEY, ('"role"',)),
    (b'{"a": "caf\xe9"}', Code.BAD_UTF8, ("0xe9", "10")),
    (b'{"a": "\xed\xa0\x80"}', Code.BAD_UTF8, ("0xed", "7")),
    (b"[1, 2]", Code.NOT_OBJECT, ()),
    (b'"text"', Code.NOT_OBJECT, ('"text"',)),
    (b"17", Code.NOT_OBJECT, ("17",)),
    (b"null", Code.NOT_OBJECT, ("null",)),
    (b'{"a": "' + b"x" * 100_000 + b'"}', Code.LINE_TOO_LONG, ("97.7 KB",)),
    (jsonl(chat(user("a\ud800"), ASSISTANT)), Code.LONE_SURROGATE, ()),
    (jsonl(arguments({"\ud800": 1})), Code.LONE_SURROGATE, ()),
    (jsonl(chat(user("a\0b"), ASSISTANT)), Code.NULL_CHARACTER, ()),
    (jsonl(arguments({"a": [{"\0": 1}]})), Code.NULL_CHARACTER, ()),
]


EXAMPLE_ERRORS = [
    ({"conversations": []}, Code.MISSING_MESSAGES, ('"conversations"',)),
    ({}, Code.MISSING_MESSAGES, ()),
    ({"messages": None, "text": "x"}, Code.MISSING_MESSAGES, ()),
    ({**GOOD, "prompt": "a", "completion": "b"}, Code.AMBIGUOUS_EXAMPLE, ()),
    ({"prompt": "a"}, Code.BAD_COMPLETION, ()),
    ({"completion": "a"}, Code.BAD_PROMPT, ()),
    ({"prompt": [], "completion": "b"}, Code.BAD_PROMPT, ()),
    ({"prompt": "a", "completion": {}}, Code.BAD_COMPLETION, ()),
    ({"prompt": "a", "completion": " "}, Code.EMPTY_CONTENT, ("2",)),
    ({"prompt": "a", "completion": [USER]}, Code.NO_ASSISTANT, ()),
    ({"prompt": [USER, ASSISTANT], "completion": [USER]}, Code.NOTHING_TO_LEARN, ()),
    ({"messages": "hello"}, Code.MESSAGES_NOT_LIST, ()),
    ({"messages": None}, Code.MESSAGES_NOT_LIST, ()),
    ({"messages": []}, Code.NO_MESSAGES, ()),
    (chat(ASSISTANT, USER), Code.FIRST_MESSAGE, ()),
    (chat(USER), Code.NO_ASSISTANT, ()),
    (chat(USER, {**ASSISTANT, "weight": 0}), Code.NOTHING_TO_LEARN, ()),
    (chat(USER, "hello"), Code.MESSAGE_NOT_OBJECT, ("2",)),
    (chat({"content": "x"}), Code.MISSING_ROLE, ("1",)),
    (chat({"role": None, "content": "x"}), Code.MISSING_ROLE, ("1",)),
    (chat({"role": "human", "content": "x"}), Code.WRONG_ROLE, ('"human"',)),
    (chat({"role": ["user"], "content": "x"}), Code.WRONG_ROLE, ()),
    (chat({"role": 1, "content": "x"}), Code.WRONG_ROLE, ("1",)),
    (chat(USER, {"role": "function", "content": "x"}), Code.WRONG_ROLE, ('"function"',)),
    (chat(user(""), ASSISTANT), Code.EMPTY_CONTENT, ("1", "user")),
    (chat(user(" \n"), ASSISTANT), Code.EMPTY_CONTENT, ("1", "user")),
    (chat(user(None), ASSISTANT), Code.EMPTY_CONTENT, ("1", "user")),
    (chat({"role": "user"}, ASSISTANT), Code.EMPTY_CONTENT, ("1", "user")),
    (chat(user([]), ASSISTANT), Code.EMPTY_CONTENT, ("1", "user")),
    (chat({"role": "system", "content": ""}, USER, ASSISTANT), Code.EMPTY_CONTENT, ("system",)),
    (chat(USER, {**CALLING, "tool_calls": []}), Code.EMPTY_CONTENT, ("2", "assistant")),
    (chat(USER, CALLING, {**ANSWER, "content": None}), Code.EMPTY_CONTENT, ("3", "tool")),
    (chat(user(7), ASSISTANT), Code.CONTENT_NOT_TEXT, ("7",)),
    (chat(user(True), ASSISTANT), Code.CONTENT_NOT_TEXT, ("true",)),
    (chat(user({"text": "x"}), ASSISTANT), Code.CONTENT_NOT_TEXT, ()),
    (chat(user(["x"]), ASSISTANT), Code.CONTENT_NOT_TEXT, ('"x"',)),
    (chat(user([{"type": "text"}]), ASSISTANT), Code.CONTENT_NOT_TEXT, ()),
    (chat(user([{"type": "image_url"}]), ASSISTANT), Code.UNSUPPORTED_CONTENT, ()),
    (
        chat(user([{"type": "input_audio"}]), ASSISTANT),
        Code.UNSUPPORTED_CONTENT,
        ("input_audio",),
    ),
    (chat(user([{"text": "x"}]), ASSISTANT), Code.UNSUPPORTED_CONTENT, ("null",)),
    (chat(USER, {**ASSISTANT, "weight": 2}), Code.BAD_WEIGHT, ("2",)),
    (chat(USER, {**ASSISTANT, "weight": True}), Code.BAD_WEIGHT, ("true",)),
    (chat(USER, {**ASSISTANT, "weight": 0.5}), Code.BAD_WEIGHT, ("0.5",)),
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
    (arguments("[1]"), Code.BAD_TOOL_ARGUMENTS, ()),
    (arguments(None), Code.BAD_TOOL_ARGUMENTS, ()),
    (arguments(nested(33)), Code.TOO_DEEP, ("32",)),
    (chat(USER, CALLING, {**ANSWER, "tool_call_id": 1}), Code.BAD_TOOL_CALL_ID, ("1",)),
    (chat(USER, CALLING, {**ANSWER, "tool_call_id": "x"}), Code.BAD_TOOL_CALL_ID, ()),
    (chat(USER, CALLING, {"role": "tool", "content": "x"}), Code.BAD_TOOL_CALL_ID, ()),
    (chat(USER, ASSISTANT, ANSWER), Code.ORPHAN_TOOL_MESSAGE, ("3",)),
    (chat(ANSWER, USER, ASSISTANT), Code.ORPHAN_TOOL_MESSAGE, ("1",)),
    (chat(USER, CALLING, USER, ANSWER), Code.ORPHAN_TOOL_MESSAGE, ("4",)),
]


@pytest.mark.parametrize(("line", "code", "shown"), TEXT_ERRORS)
def test_an_invalid_json_line_is_reported(line: bytes, code: Code, shown: tuple[str, ...]) -> None:
    report, output, _ = validated(jsonl(GOOD) + line.rstrip(b"\n") + b"\n" + jsonl(GOOD))
    assert report.status is Status.REJECTED
    assert [(error.line, error.code) for error in report.errors] == [(2, code)]
    assert all(each in report.errors[0].message for each in shown)
    assert (report.lines, report.examples, report.duplicates) == (3, 1, 1)
    assert report.sha256 is None
    assert output == b""


@pytest.mark.parametrize(("example", "code", "shown"), EXAMPLE_ERRORS)
def test_an_invalid_example_is_reported(
    example: dict[str, object], code: Code, shown: tuple[str, ...]
) -> None:
    report, _, _ = validated(jsonl(GOOD, example))
    assert report.status is Status.REJECTED
    assert [(error.line, error.code) for error in report.errors] == [(2, code)]
    assert all(each in report.errors[0].message for each in shown)


@pytest.mark.parametrize("content", [b"", b"\n", b"\r\n \n", b"\xef\xbb\xbf"])
def test_a_file_without_examples_is_rejected(content: bytes) -> None:
    report, _, progress = validated(content)
    assert report.status is Status.REJECTED
    assert [(error.line, error.code) for error in report.errors] == [(None, Code.EMPTY_FILE)]
    assert progress[-1] == Progress(report.lines, len(content))


@pytest.mark.parametrize(("magic", "kind"), UNSUPPORTED.items())
def test_a_binary_file_gets_one_error_that_names_its_kind(magic: bytes, kind: str) -> None:
    report, _, _ = validated(magic + b"rest\n\n\n")
    assert [(error.line, error.code) for error in report.errors] == [(None, Code.UNSUPPORTED_FILE)]
    assert kind in report.errors[0].message


def test_a_file_over_the_limit_is_not_read_further() -> None:
    line = jsonl(GOOD)
    taken: list[int] = []

    def chunks():
        for number in range(10):
            taken.append(number)
            yield line

    report, _, _ = validated_chunks(chunks(), 3 * len(line) + 5, 10**5)
    assert taken == [0, 1, 2, 3]
    assert [(error.line, error.code) for error in report.errors] == [(None, Code.FILE_TOO_LARGE)]
    assert f"{3 * len(line) + 5} bytes" in report.errors[0].message
    assert (report.lines, report.bytes) == (3, 3 * len(line))


def test_every_error_is_counted_and_the_first_hundred_are_kept() -> None:
    report, _, _ = validated(b"{\n" * 250 + jsonl(GOOD))
    assert report.error_count == 250
    assert [error.line for error in report.errors] == list(range(1, ERRORS_SHOWN + 1))
    assert report.examples == 1


def test_every_code_has_a_test() -> None:
    tabled = {code for _, code, _ in (*TEXT_ERRORS, *EXAMPLE_ERRORS)}
    in_their_own_tests = {
        Code.EMPTY_FILE,
        Code.FILE_TOO_LARGE,
        Code.UNSUPPORTED_FILE,
        Code.TOO_MANY_LINES,
        Code.NOT_READABLE,
        Code.TOO_COMPLEX,
        Code.BYTE_ORDER_MARK,
        Code.BLANK_LINES,
        Code.DUPLICATE_LINES,
        Code.UNUSED_KEYS,
        Code.TOOL_DEFINITIONS,
        Code.UNUSED_MESSAGE_KEYS,
        Code.SYSTEM_NOT_FIRST,
        Code.ENDS_WITHOUT_ASSISTANT,
    }
    assert tabled | in_their_own_tests == set(Code)


def test_trailing_backslashes_do_not_hide_duplicate_keys() -> None:
    turns = [json.dumps(user("C:\\"))] * 4 + ['{"role": "user", "role": "user", "content": "x"}']
    line = '{"messages": [' + ", ".join([*turns, json.dumps(ASSISTANT)]) + "]}"
    report, _, _ = validated(line.encode())
    assert [error.code for error in report.errors] == [Code.DUPLICATE_KEY]


def test_nothing_is_written_after_an_error() -> None:
    large = b"".join(jsonl(chat(user(f"{n} " + "x" * 50_000), ASSISTANT)) for n in range(50))
    report, output, _ = validated(b"{\n" + large, max_bytes=10**8)
    assert (report.examples, output) == (50, b"")
