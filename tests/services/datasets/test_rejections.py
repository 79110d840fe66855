"""Every rule that rejects an upload, by its code."""

from __future__ import annotations

import json

import pytest

from services.datasets.findings import ERRORS_SHOWN
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

TEXT_ERRORS = [
    (b'{"messages": [}', Code.MALFORMED_JSON, "column 15: a value is missing"),
    (b'{"messages" []}', Code.MALFORMED_JSON, "column 13: a colon is missing"),
    (b'{"messages": [] "a": 1}', Code.MALFORMED_JSON, "column 17: a comma is missing"),
    (b'{"messages": [], a: 1}', Code.MALFORMED_JSON, "column 18: a key in double quotes"),
    (b"{'messages': []}", Code.MALFORMED_JSON, "column 2: a key in double quotes"),
    (b'{"a": 1} {"b": 2}', Code.MALFORMED_JSON, "column 10: more follows"),
    (b'{"a": "x\ty"}', Code.MALFORMED_JSON, "column 9: a raw control character"),
    (b'{"a": "x\x00y"}', Code.MALFORMED_JSON, "column 9: a raw control character"),
    (b'{"a": "x\\qy"}', Code.MALFORMED_JSON, "column 9: a backslash starts no known escape"),
    (b'{"a": "x', Code.MALFORMED_JSON, "a text starts here and never ends"),
    (b"{", Code.MALFORMED_JSON, "the line ends before the JSON does"),
    (b"[", Code.MALFORMED_JSON, "the line ends before the JSON does"),
    (b"plain text", Code.MALFORMED_JSON, "column 1"),
    (b"[" * 50_000, Code.TOO_DEEP, "nested too deeply"),
    (b'{"a": NaN}', Code.BAD_NUMBER, "NaN is not a JSON value"),
    (b'{"a": -Infinity}', Code.BAD_NUMBER, "-Infinity is not a JSON value"),
    (b'{"a": 1e999}', Code.BAD_NUMBER, "too large"),
    (b'{"a": 1' + b"0" * 5000 + b"}", Code.BAD_NUMBER, "too many digits"),
    (b'{"messages": [], "messages": []}', Code.DUPLICATE_KEY, 'The key "messages" occurs twice'),
    (b'{"messages": [{"role": "user", "r\\u006fle": "tool"}]}', Code.DUPLICATE_KEY, '"role"'),
    (b'{"a": "caf\xe9"}', Code.BAD_UTF8, "byte 0xe9 at byte offset 10"),
    (b'{"a": "\xed\xa0\x80"}', Code.BAD_UTF8, "byte offset 7"),
    (b"[1, 2]", Code.NOT_OBJECT, "a list, not a JSON object"),
    (b'"text"', Code.NOT_OBJECT, '"text", not a JSON object'),
    (b"17", Code.NOT_OBJECT, "17, not a JSON object"),
    (b"null", Code.NOT_OBJECT, "null, not a JSON object"),
    (b'{"a": "' + b"x" * 100_000 + b'"}', Code.LINE_TOO_LONG, "97.7 KB long; the limit is 97.7"),
    (jsonl(chat(user("a\ud800"), ASSISTANT)), Code.LONE_SURROGATE, "half a character"),
    (jsonl(arguments({"\ud800": 1})), Code.LONE_SURROGATE, "half a character"),
    (jsonl(chat(user("a\0b"), ASSISTANT)), Code.NULL_CHARACTER, "null character"),
    (jsonl(arguments({"a": [{"\0": 1}]})), Code.NULL_CHARACTER, "null character"),
]


EXAMPLE_ERRORS = [
    ({"conversations": []}, Code.MISSING_MESSAGES, 'it has "conversations"'),
    ({}, Code.MISSING_MESSAGES, "it has no keys"),
    ({"messages": None, "text": "x"}, Code.MISSING_MESSAGES, "neither"),
    ({**GOOD, "prompt": "a", "completion": "b"}, Code.AMBIGUOUS_EXAMPLE, "both"),
    ({"prompt": "a"}, Code.BAD_COMPLETION, '"completion" must be'),
    ({"completion": "a"}, Code.BAD_PROMPT, '"prompt" must be'),
    ({"prompt": [], "completion": "b"}, Code.BAD_PROMPT, '"prompt" must be'),
    ({"prompt": "a", "completion": {}}, Code.BAD_COMPLETION, '"completion" must be'),
    ({"prompt": "a", "completion": " "}, Code.EMPTY_CONTENT, "message 2"),
    ({"prompt": "a", "completion": [USER]}, Code.NO_ASSISTANT, "no assistant"),
    ({"prompt": [USER, ASSISTANT], "completion": [USER]}, Code.NOTHING_TO_LEARN, "weight 0"),
    ({"messages": "hello"}, Code.MESSAGES_NOT_LIST, "not a list"),
    ({"messages": None}, Code.MESSAGES_NOT_LIST, "not a list"),
    ({"messages": []}, Code.NO_MESSAGES, "empty list"),
    (chat(ASSISTANT, USER), Code.FIRST_MESSAGE, "first message"),
    (chat(USER), Code.NO_ASSISTANT, "no assistant message"),
    (chat(USER, {**ASSISTANT, "weight": 0}), Code.NOTHING_TO_LEARN, "weight 0"),
    (chat(USER, "hello"), Code.MESSAGE_NOT_OBJECT, "Message 2"),
    (chat({"content": "x"}), Code.MISSING_ROLE, "Message 1"),
    (chat({"role": None, "content": "x"}), Code.MISSING_ROLE, "Message 1"),
    (chat({"role": "human", "content": "x"}), Code.WRONG_ROLE, 'the role "human"'),
    (chat({"role": ["user"], "content": "x"}), Code.WRONG_ROLE, "the role a list"),
    (chat({"role": 1, "content": "x"}), Code.WRONG_ROLE, "the role 1"),
    (chat(USER, {"role": "function", "content": "x"}), Code.WRONG_ROLE, "tool"),
    (chat(user(""), ASSISTANT), Code.EMPTY_CONTENT, "message 1 (user)"),
    (chat(user(" \n"), ASSISTANT), Code.EMPTY_CONTENT, "message 1 (user)"),
    (chat(user(None), ASSISTANT), Code.EMPTY_CONTENT, "message 1 (user)"),
    (chat({"role": "user"}, ASSISTANT), Code.EMPTY_CONTENT, "message 1 (user)"),
    (chat(user([]), ASSISTANT), Code.EMPTY_CONTENT, "message 1 (user)"),
    (chat({"role": "system", "content": ""}, USER, ASSISTANT), Code.EMPTY_CONTENT, "system"),
    (chat(USER, {**CALLING, "tool_calls": []}), Code.EMPTY_CONTENT, "message 2 (assistant)"),
    (chat(USER, CALLING, {**ANSWER, "content": None}), Code.EMPTY_CONTENT, "message 3 (tool)"),
    (chat(user(7), ASSISTANT), Code.CONTENT_NOT_TEXT, "not a text but 7"),
    (chat(user(True), ASSISTANT), Code.CONTENT_NOT_TEXT, "not a text but true"),
    (chat(user({"text": "x"}), ASSISTANT), Code.CONTENT_NOT_TEXT, "not a text but an object"),
    (chat(user(["x"]), ASSISTANT), Code.CONTENT_NOT_TEXT, "parts are not all objects"),
    (chat(user([{"type": "text"}]), ASSISTANT), Code.CONTENT_NOT_TEXT, 'no text as "text"'),
    (chat(user([{"type": "image_url"}]), ASSISTANT), Code.UNSUPPORTED_CONTENT, "an image"),
    (chat(user([{"type": "input_audio"}]), ASSISTANT), Code.UNSUPPORTED_CONTENT, "input_audio"),
    (chat(user([{"text": "x"}]), ASSISTANT), Code.UNSUPPORTED_CONTENT, "type null"),
    (chat(USER, {**ASSISTANT, "weight": 2}), Code.BAD_WEIGHT, "is 2;"),
    (chat(USER, {**ASSISTANT, "weight": True}), Code.BAD_WEIGHT, "is true;"),
    (chat(USER, {**ASSISTANT, "weight": 0.5}), Code.BAD_WEIGHT, "is 0.5;"),
    (chat({**USER, "name": 3}, ASSISTANT), Code.BAD_NAME, '"name" of message 1'),
    (calling("look"), Code.BAD_TOOL_CALLS, "must be a list"),
    (calling(["look"]), Code.BAD_TOOL_CALLS, "list of objects"),
    (calling([{**CALL, "type": "magic"}]), Code.BAD_TOOL_CALLS, "type"),
    (calling([{"id": "c1", "type": "function"}]), Code.BAD_TOOL_CALLS, '"function" object'),
    (calling([{"function": {"arguments": "{}"}}]), Code.BAD_TOOL_CALLS, "name"),
    (calling([{**CALL, "id": 4}]), Code.BAD_TOOL_CALLS, '"id"'),
    (arguments("{"), Code.BAD_TOOL_ARGUMENTS, "no JSON"),
    (arguments('{"a": 1, "a": 2}'), Code.BAD_TOOL_ARGUMENTS, "occurs twice"),
    (arguments("[" * 50_000), Code.BAD_TOOL_ARGUMENTS, "nested too deeply"),
    (arguments("[1]"), Code.BAD_TOOL_ARGUMENTS, "must be a JSON object"),
    (arguments(None), Code.BAD_TOOL_ARGUMENTS, "must be a JSON object"),
    (arguments(nested(33)), Code.TOO_DEEP, "more than 32 levels"),
    (chat(USER, CALLING, {**ANSWER, "tool_call_id": 1}), Code.BAD_TOOL_CALL_ID, "must be a text"),
    (chat(USER, CALLING, {**ANSWER, "tool_call_id": "x"}), Code.BAD_TOOL_CALL_ID, "names none"),
    (chat(USER, CALLING, {"role": "tool", "content": "x"}), Code.BAD_TOOL_CALL_ID, "names none"),
    (chat(USER, ASSISTANT, ANSWER), Code.ORPHAN_TOOL_MESSAGE, "Message 3"),
    (chat(ANSWER, USER, ASSISTANT), Code.ORPHAN_TOOL_MESSAGE, "Message 1"),
    (chat(USER, CALLING, USER, ANSWER), Code.ORPHAN_TOOL_MESSAGE, "Message 4"),
]


@pytest.mark.parametrize(("line", "code", "words"), TEXT_ERRORS)
def test_a_line_that_is_no_good_json_is_named(line: bytes, code: Code, words: str) -> None:
    report, output, _ = validated(jsonl(GOOD) + line.rstrip(b"\n") + b"\n" + jsonl(GOOD))
    assert report.status is Status.REJECTED
    assert [(error.line, error.code) for error in report.errors] == [(2, code)]
    assert words in report.errors[0].message
    assert (report.lines, report.examples, report.duplicates) == (3, 1, 1)
    assert report.sha256 is None
    assert output == b""


@pytest.mark.parametrize(("example", "code", "words"), EXAMPLE_ERRORS)
def test_an_example_that_breaks_a_rule_is_named(
    example: dict[str, object], code: Code, words: str
) -> None:
    report, _, _ = validated(jsonl(GOOD, example))
    assert report.status is Status.REJECTED
    assert [(error.line, error.code) for error in report.errors] == [(2, code)]
    assert words in report.errors[0].message


@pytest.mark.parametrize("content", [b"", b"\n", b"\r\n \n", b"\xef\xbb\xbf"])
def test_a_file_without_examples_is_rejected(content: bytes) -> None:
    report, _, progress = validated(content)
    assert report.status is Status.REJECTED
    assert [(error.line, error.code) for error in report.errors] == [(None, Code.EMPTY_FILE)]
    assert progress[-1] == Progress(report.lines, len(content))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (json.dumps(GOOD).encode("utf-16"), "UTF-16"),
        (b"\xfe\xff\x00{", "UTF-16"),
        (b"\x1f\x8b\x08\x00", "gzip"),
        (b"PK\x03\x04rest", "zip"),
        (b"PAR1rest", "Parquet"),
        (b"\x28\xb5\x2f\xfdrest", "zstd"),
    ],
)
def test_another_kind_of_file_is_named_once(content: bytes, words: str) -> None:
    report, _, _ = validated(content + b"\n\n\n")
    assert [(error.line, error.code) for error in report.errors] == [(None, Code.UNSUPPORTED_FILE)]
    assert words in report.errors[0].message


def test_a_file_over_the_limit_is_rejected_and_not_read_on() -> None:
    line = jsonl(GOOD)
    taken: list[int] = []

    def chunks():
        for number in range(10):
            taken.append(number)
            yield line

    report, _, _ = validated_chunks(chunks(), 3 * len(line) + 5, 10**5)
    assert taken == [0, 1, 2, 3]
    assert [(error.line, error.code) for error in report.errors] == [(None, Code.FILE_TOO_LARGE)]
    assert f"the limit of {3 * len(line) + 5} bytes" in report.errors[0].message
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


def test_backslashes_at_the_end_of_texts_hide_no_repeated_key() -> None:
    turns = [json.dumps(user("C:\\"))] * 4 + ['{"role": "user", "role": "user", "content": "x"}']
    line = '{"messages": [' + ", ".join([*turns, json.dumps(ASSISTANT)]) + "]}"
    report, _, _ = validated(line.encode())
    assert [error.code for error in report.errors] == [Code.DUPLICATE_KEY]


def test_nothing_is_written_after_an_error() -> None:
    large = b"".join(jsonl(chat(user(f"{n} " + "x" * 50_000), ASSISTANT)) for n in range(50))
    report, output, _ = validated(b"{\n" + large, max_bytes=10**8)
    assert (report.examples, output) == (50, b"")
