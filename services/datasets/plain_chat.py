"""A quick way through the rules for the chats that most files are made of."""

from __future__ import annotations

from pydantic_core import from_json

from services.datasets.messages import ROLES, Message


def plain_messages(text: str) -> list[Message] | None:
    """The normalised messages of a line of nothing but roles and texts, else None.

    None says nothing about the line: the rules, which take thrice as long, then judge it. What
    is returned is what they would return, before they look at the order of messages.
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
    """Whether a JSON text has exactly so many strings, and so no key that a later one hid."""
    if "\\" not in text:
        return text.count('"') == 2 * strings
    # Without escaped backslashes, a backslash before a quote always escapes it.
    return "\\\\" not in text and text.count('"') - text.count('\\"') == 2 * strings
