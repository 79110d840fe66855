"""Files in other formats than JSON Lines."""

from __future__ import annotations

import json

import pytest

from services.datasets.file_format import ARRAY, SPREAD, TABLE
from services.datasets.report import Code
from tests.services.datasets.uploads import ASSISTANT, GOOD, USER, chat, jsonl, validated

ROWS = b"Where is it?,On its way.\nWhen?,Tomorrow.\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"prompt,completion\n" + ROWS, TABLE),
        (b"\xef\xbb\xbfprompt;completion\na;b\nc;d\n", TABLE),
        (b'"question"\t"answer"\n"a"\t"b"\n', TABLE),
        (json.dumps([GOOD] * 50).encode(), ARRAY),
        (json.dumps([GOOD] * 50, indent=1).encode(), ARRAY),
        (b"\n\n[\n" + jsonl(GOOD, GOOD), ARRAY),
        (json.dumps(GOOD, indent=2).encode(), SPREAD),
    ],
)
def test_another_format_gets_one_error_with_a_conversion(content: bytes, message: str) -> None:
    report, output, _ = validated(content)
    (error,) = report.errors
    assert (error.line, error.code, report.error_count) == (None, Code.UNSUPPORTED_FILE, 1)
    assert error.message == message
    assert output == b""


def test_invalid_json_lines_are_reported_per_line() -> None:
    report, _, _ = validated(b"{\n" + jsonl(GOOD) + b"no json, at all\n[1]\n")
    assert [error.line for error in report.errors] == [1, 3, 4]


@pytest.mark.parametrize("keep", [False, True])
def test_repeated_lines_are_kept_on_request(keep: bool) -> None:
    report, output, _ = validated(jsonl(*[GOOD] * 40), keep_duplicates=keep)
    kept = 40 if keep else 1
    assert (report.examples, report.duplicates) == (kept, 40 - kept)
    assert output.count(b"\n") == kept


def test_lines_that_define_tools_are_counted() -> None:
    tool = {"type": "function", "function": {"name": "look"}}
    report, _, _ = validated(
        jsonl(
            chat(USER, ASSISTANT) | {"tools": [tool]},
            chat(USER, ASSISTANT, USER, ASSISTANT) | {"functions": [tool["function"]]},
            chat(USER, {**ASSISTANT, "content": "No."}) | {"tools": []},
        )
    )
    assert report.tool_lines == 2
    assert [notice.code for notice in report.warnings] == [Code.TOOL_DEFINITIONS]
