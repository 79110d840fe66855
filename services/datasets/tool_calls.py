"""Normalization of the tool calls of an assistant message for chat templates."""

from __future__ import annotations

from collections import Counter
from typing import Any

from services.datasets.json_line import parse
from services.datasets.report import Code, Refused, quoted

MAX_ARGUMENT_DEPTH = 32


def normalized_calls(raw: Any, position: int) -> list[dict[str, Any]]:
    """Return tool calls as {"id"?, "type": "function", "function": {"name", "arguments": object}}.

    Arguments may be an object or, as in OpenAI's format, a JSON string. Chat templates need an
    object. `position` is the number of the message, from 1. Raise Refused if a call is invalid.
    """
    if not isinstance(raw, list):
        raise _bad(position, "must be a list")
    calls = [_call(call, position) for call in raw]
    ids = Counter(call["id"] for call in calls if "id" in call)
    for call_id, count in ids.most_common(1):
        if count > 1:
            raise _bad(position, f'must each have another "id", but {count} have {quoted(call_id)}')
    return calls


def _call(raw: Any, position: int) -> dict[str, Any]:
    if not isinstance(raw, dict):
        raise _bad(position, "must be a list of objects")
    if raw.get("type") not in (None, "function"):
        raise _bad(position, 'must have the type "function"')
    function = raw.get("function")
    if not isinstance(function, dict):
        raise _bad(position, 'must each have a "function" object')
    name, call_id = function.get("name"), raw.get("id")
    if not isinstance(name, str) or not name.strip():
        raise _bad(position, 'must each have a function "name"')
    if call_id is not None and (not isinstance(call_id, str) or not call_id):
        raise _bad(position, 'must have a string as "id"')
    call = {} if call_id is None else {"id": call_id}
    arguments = _arguments(function.get("arguments"), position)
    return {**call, "type": "function", "function": {"name": name, "arguments": arguments}}


def _arguments(raw: Any, position: int) -> dict[str, Any]:
    if isinstance(raw, str):
        try:
            raw = parse(raw)
        except Refused as error:
            raise Refused(
                Code.BAD_TOOL_ARGUMENTS,
                f"The arguments of a tool call in message {position} are not JSON. {error.message}",
            ) from None
    if not isinstance(raw, dict):
        raise Refused(
            Code.BAD_TOOL_ARGUMENTS,
            f"The arguments of a tool call in message {position} must be a JSON object.",
        )
    if deeper_than(MAX_ARGUMENT_DEPTH, raw):
        raise Refused(
            Code.TOO_DEEP,
            f"The arguments of a tool call in message {position} have more than "
            f"{MAX_ARGUMENT_DEPTH} levels. Use fewer.",
        )
    return raw


def deeper_than(levels: int, value: Any) -> bool:
    """Return True if a JSON value nests objects and lists more than `levels` deep."""
    layer = [value]
    for _ in range(levels):
        layer = [
            item
            for outer in layer
            if isinstance(outer, dict | list)
            for item in (outer.values() if isinstance(outer, dict) else outer)
        ]
    return any(isinstance(item, dict | list) for item in layer)


def _bad(position: int, what: str) -> Refused:
    return Refused(Code.BAD_TOOL_CALLS, f'The "tool_calls" of message {position} {what}.')
