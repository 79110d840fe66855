"""Validation and normalization of the messages of an example."""

from __future__ import annotations

from typing import Any

from pydantic_core import from_json

from services.datasets.report import NAMES_SHOWN, Code, Refused, quoted
from services.datasets.tool_calls import normalized_calls

Message = dict[str, Any]
Notes = list[tuple[Code, tuple[str, ...]]]

# OpenAI renamed the system role to developer. Open models know only system.
ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",  # with `function_call`, OpenAI's form before it had tools
}
HONOURED_KEYS = {
    "system": {"role", "content", "name"},
    "user": {"role", "content", "name"},
    "assistant": {"role", "content", "name", "weight", "tool_calls", "function_call"},
    "tool": {"role", "content", "name", "tool_call_id"},
}
TEXT_PARTS = {"text", "input_text", "output_text"}


def normalized(raw: Any, position: int, notes: Notes) -> Message:
    """Return a message with text content and only the keys that training uses.

    `position` is the number of the message, from 1, for error messages. Append warnings to `notes`.
    Raise Refused if the message is invalid.
    """
    if not isinstance(raw, dict):
        raise Refused(
            Code.MESSAGE_NOT_OBJECT,
            f'Message {position} is {quoted(raw)}. Write an object with "role" and "content".',
        )
    role, content = _role(raw, position), raw.get("content")
    calls = _calls(raw, position) if role == "assistant" else None
    message: Message = {"role": role, "content": _content(content, role, position, bool(calls))}
    if calls is not None and calls != []:
        message["tool_calls"] = normalized_calls(calls, position)
    _add_weight(message, raw, position)
    _add_text(message, raw, "name", Code.BAD_NAME, position)
    _add_text(message, raw, "tool_call_id", Code.BAD_TOOL_CALL_ID, position)
    unused = [key for key in raw if key not in HONOURED_KEYS[role] and raw[key] is not None]
    if unused:
        notes.append((Code.UNUSED_MESSAGE_KEYS, tuple(map(quoted, unused[:NAMES_SHOWN]))))
    return message


def _calls(raw: dict[str, Any], position: int) -> Any:
    """Return the raw tool calls of an assistant message. One `function_call` becomes a list."""
    calls, call = raw.get("tool_calls"), raw.get("function_call")
    if call is None:
        return calls
    if calls:
        raise Refused(
            Code.BAD_TOOL_CALLS,
            f'Message {position} has "tool_calls" together with "function_call". Keep one of them.',
            position=position,
        )
    return [{"type": "function", "function": call}]


def _role(raw: dict[str, Any], position: int) -> str:
    role = raw.get("role")
    if role is None:
        raise Refused(Code.MISSING_ROLE, f'Message {position} has no "role". Add one.')
    if not isinstance(role, str) or role not in ROLES:
        raise Refused(
            Code.WRONG_ROLE,
            f"Message {position} has the unknown role {quoted(role)}. Use system, developer, "
            "user, assistant or tool.",
        )
    return ROLES[role]


def _content(content: Any, role: str, position: int, has_calls: bool) -> str:
    if isinstance(content, list):
        content = "".join(_part(part, position) for part in content)
    if content is not None and not isinstance(content, str):
        raise Refused(
            Code.CONTENT_NOT_TEXT,
            f"The content of message {position} ({role}) is {quoted(content)}. Write a string.",
        )
    # A tool may return nothing, and a message with tool calls needs no text.
    may_be_empty = has_calls or (role == "tool" and content is not None)
    if not may_be_empty and (not content or content.isspace()):
        raise Refused(
            Code.EMPTY_CONTENT, f"The content of message {position} ({role}) is empty. Add text."
        )
    return content or ""


def _part(part: Any, position: int) -> str:
    if not isinstance(part, dict):
        raise Refused(
            Code.CONTENT_NOT_TEXT,
            f'A part of message {position} is {quoted(part)}. Write an object with "type" and '
            '"text".',
        )
    kind = part.get("type")
    if not isinstance(kind, str) or kind not in TEXT_PARTS:
        what = (
            "an image"
            if isinstance(kind, str) and "image" in kind
            else f"a part of type {quoted(kind)}"
        )
        raise Refused(
            Code.UNSUPPORTED_CONTENT,
            f"Message {position} contains {what}. Training supports only text. Remove the part.",
        )
    text = part.get("text")
    if not isinstance(text, str):
        raise Refused(
            Code.CONTENT_NOT_TEXT,
            f'A text part of message {position} has no string as "text". Add one.',
        )
    return text


def _add_weight(message: Message, raw: dict[str, Any], position: int) -> None:
    weight = raw.get("weight")
    if message["role"] != "assistant" or weight is None:
        return
    if type(weight) is not int or weight not in (0, 1):
        raise Refused(
            Code.BAD_WEIGHT,
            f"The weight of message {position} is {quoted(weight)}. Use 1, or 0 to exclude the "
            "message from the loss.",
        )
    message["weight"] = weight


def _add_text(message: Message, raw: dict[str, Any], key: str, code: Code, position: int) -> None:
    value = raw.get(key)
    if value is None or key not in HONOURED_KEYS[message["role"]]:
        return
    if not isinstance(value, str) or not value:
        raise Refused(code, f'The "{key}" of message {position} is {quoted(value)}. Write text.')
    message[key] = value


def plain_messages(text: str) -> list[Message] | None:
    """Return the normalized messages of a simple line; None for other lines.

    This is a fast path for lines that have only roles and string contents. `normalized` has the
    same result but takes three times as long. None does not mean that the line is invalid.
    """
    try:
        value = from_json(text, cache_strings="keys")
    except ValueError:
        return None
    raw = value.get("messages") if type(value) is dict and len(value) == 1 else None
    if type(raw) is not list:
        return None
    messages: list[Message] = []
    for item in raw:
        if type(item) is not dict or len(item) != 2:
            return None
        role, content = item.get("role"), item.get("content")
        if type(role) is not str or role not in ROLES or type(content) is not str:
            return None
        if not content or content.isspace():
            return None
        messages.append({"role": ROLES[role], "content": content})
    return messages if messages and _has_no_other_text(text, 1 + 4 * len(messages)) else None


def _has_no_other_text(text: str, strings: int) -> bool:
    """Return True if a JSON text has exactly this many strings. It then has no duplicate keys."""
    if "\\" not in text:
        return text.count('"') == 2 * strings
    # If no backslash is escaped, a backslash before a quote always escapes the quote.
    return "\\\\" not in text and text.count('"') - text.count('\\"') == 2 * strings
