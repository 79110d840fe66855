"""Uploads and their validation."""

from __future__ import annotations

import json
from typing import Any

from domain.datasets.dataset import UploadOptions
from services.datasets.report import Progress, Report
from services.datasets.validation import Choices, validate

USER = {"role": "user", "content": "What is the capital of France?"}
ASSISTANT = {"role": "assistant", "content": "Paris."}
CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at": 1}'}}
CALLING = {"role": "assistant", "content": None, "tool_calls": [CALL]}
ANSWER = {"role": "tool", "tool_call_id": "c1", "content": "Sunny."}
LOOPING = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
GROWING = "{% for a in range(99999) %}{{ '%1000000s' | format('x') }}{% endfor %}"


def chat(*messages: Any) -> dict[str, Any]:
    """Return an example in the `messages` form."""
    return {"messages": list(messages)}


def user(content: object) -> dict[str, object]:
    return {"role": "user", "content": content}


def calling(call: object) -> dict[str, object]:
    """Return an example whose answer has these tool calls."""
    return chat(USER, {"role": "assistant", "tool_calls": call})


def arguments(value: object) -> dict[str, object]:
    """Return an example whose tool call has these arguments."""
    return calling([{"type": "function", "function": {"name": "look", "arguments": value}}])


def nested(levels: int) -> dict[str, object]:
    """Return an object with nested levels."""
    value: dict[str, object] = {}
    for _ in range(levels - 1):
        value = {"a": value}
    return value


def jsonl(*examples: Any) -> bytes:
    """Return a file with one value per line."""
    return b"".join(json.dumps(example).encode() + b"\n" for example in examples)


GOOD = chat(USER, ASSISTANT)
VALID = jsonl(GOOD, chat(USER, ASSISTANT | {"content": "Rome."}))


def validated(
    *chunks: bytes,
    max_bytes: int = 10**6,
    max_line_bytes: int = 10**5,
    **options: bool,
) -> tuple[Report, bytes, list[Progress]]:
    """Return the report, the normalized output and the progress of an upload.

    `options` are those of UploadOptions.
    """
    output: list[bytes] = []
    progress: list[Progress] = []
    report = validate(
        chunks,
        output.append,
        on_progress=progress.append,
        max_bytes=max_bytes,
        max_line_bytes=max_line_bytes,
        choices=Choices(UploadOptions(**options)),
    )
    return report, b"".join(output), progress


def normalized(example: Any) -> list[dict[str, Any]]:
    """Return the messages that a valid example becomes."""
    report, output, _ = validated(jsonl(example))
    assert report.errors == ()
    return json.loads(output)["messages"]
