"""Uploads for tests."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from services.datasets.report import Progress, Report
from services.datasets.validation import validate

USER = {"role": "user", "content": "What is the capital of France?"}
ASSISTANT = {"role": "assistant", "content": "Paris."}
CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at": 1}'}}
CALLING = {"role": "assistant", "content": None, "tool_calls": [CALL]}
ANSWER = {"role": "tool", "tool_call_id": "c1", "content": "Sunny."}


def chat(*messages: Any) -> dict[str, Any]:
    """An example in the `messages` form."""
    return {"messages": list(messages)}


GOOD = chat(USER, ASSISTANT)


def user(content: object) -> dict[str, object]:
    """A message of the user."""
    return {"role": "user", "content": content}


def calling(call: object) -> dict[str, object]:
    """An example whose answer has these tool calls."""
    return chat(USER, {"role": "assistant", "tool_calls": call})


def arguments(value: object) -> dict[str, object]:
    """An example whose tool call has these arguments."""
    return calling([{"type": "function", "function": {"name": "look", "arguments": value}}])


def nested(levels: int) -> dict[str, object]:
    """An object with nested levels."""
    value: dict[str, object] = {}
    for _ in range(levels - 1):
        value = {"a": value}
    return value


def jsonl(*examples: Any) -> bytes:
    """A file with one value per line."""
    return b"".join(json.dumps(example).encode() + b"\n" for example in examples)


def validated(
    *chunks: bytes,
    max_bytes: int = 10**6,
    max_line_bytes: int = 10**5,
    keep_duplicates: bool = False,
) -> tuple[Report, bytes, list[Progress]]:
    """The report, the normalised output and the progress of an upload."""
    return validated_chunks(chunks, max_bytes, max_line_bytes, keep_duplicates)


def validated_chunks(
    chunks: Iterable[bytes], max_bytes: int, max_line_bytes: int, keep_duplicates: bool = False
) -> tuple[Report, bytes, list[Progress]]:
    """Like `validated`, for any iterable."""
    output: list[bytes] = []
    progress: list[Progress] = []
    report = validate(
        chunks,
        output.append,
        on_progress=progress.append,
        max_bytes=max_bytes,
        max_line_bytes=max_line_bytes,
        keep_duplicates=keep_duplicates,
    )
    return report, b"".join(output), progress


def normalised(example: Any) -> list[dict[str, Any]]:
    """The messages that a valid example becomes."""
    report, output, _ = validated(jsonl(example))
    assert report.errors == ()
    return json.loads(output)["messages"]
