"""Tool calls in answers: how a chat template writes them, and how to read them from the text."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from infrastructure.chat.chat_labels import ChatRenderer, Unrenderable
from infrastructure.chat.generation import ToolCall

PROBE_NAME, PROBE_ARGUMENTS = "probe_of_calls", {"probe_of_arguments": "x"}
PROBE_TOOL = {
    "type": "function",
    "function": {
        "name": PROBE_NAME,
        "description": "x",
        "parameters": {
            "type": "object",
            "properties": {"probe_of_arguments": {"type": "string"}},
            "required": ["probe_of_arguments"],
        },
    },
}
PROBE = [
    {"role": "user", "content": "x"},
    {
        "role": "assistant",
        "content": "",
        # Some templates accept only IDs of nine letters and digits.
        "tool_calls": [
            {
                "id": "a1b2c3d4e",
                "type": "function",
                "function": {"name": PROBE_NAME, "arguments": PROBE_ARGUMENTS},
            }
        ],
    },
]

_JSON = json.JSONDecoder()


@dataclass(frozen=True)
class CallFormat:
    """The text in which a chat template writes tool calls.

    A call is a JSON object with a name and arguments, or a list of such objects, between `opening`
    and `closing`. Both are without special tokens and may be empty.
    """

    opening: str
    closing: str
    arguments: str  # key of the arguments

    @classmethod
    def of(cls, renderer: ChatRenderer, visible: Callable[[list[int]], str]) -> CallFormat | None:
        """Return a template's format; None without JSON calls. `visible` decodes answers."""
        try:
            messages, tools = renderer.plain({"messages": PROBE, "tools": [PROBE_TOOL]})
            text, start = renderer.answer(messages, tools)
        except Unrenderable:
            return None
        answer = visible(renderer.encode(text[start:]).ids)
        for at, value, end in _json_values(answer):
            call = value[0] if isinstance(value, list) and len(value) == 1 else value
            if isinstance(call, dict) and call.get("name") == PROBE_NAME:
                keys = [key for key in call if _as_object(call[key]) == PROBE_ARGUMENTS]
                if keys:
                    return cls(answer[:at].strip(), answer[end:].strip(), keys[0])
        return None

    def calls(self, text: str, names: frozenset[str]) -> list[ToolCall] | None:
        """Return the calls of `names` that a text consists of; None if it has anything else."""
        calls: list[ToolCall] = []
        rest = text.strip()
        while rest:
            rest = rest.removeprefix(self.opening).lstrip()
            try:
                value, end = _JSON.raw_decode(rest)
            except (ValueError, RecursionError):
                return None
            for item in value if isinstance(value, list) else [value]:
                call = self._call(item, names)
                if call is None:
                    return None
                calls.append(call)
            rest = rest[end:].lstrip()
            rest = rest.removeprefix(self.closing).lstrip(" \t\r\n;")
        return calls or None

    def _call(self, item: Any, names: frozenset[str]) -> ToolCall | None:
        name = item.get("name") if isinstance(item, dict) else None
        if not isinstance(name, str) or name not in names:
            return None
        arguments = _as_object(item.get(self.arguments, {}))
        if arguments is None:
            return None
        return ToolCall(
            id=f"call_{uuid4().hex[:24]}",
            name=name,
            arguments=json.dumps(arguments, ensure_ascii=False),
        )


class CallReader:
    """A reader of one answer. It withholds text that may start a call, until the end."""

    def __init__(self, form: CallFormat, names: frozenset[str]) -> None:
        self._form = form
        self._names = names
        self._held = ""
        self._opened = False
        self._has_text = False

    def add(self, text: str) -> str:
        """Return the part of the text that belongs to the answer's content."""
        self._held += text
        if self._opened:
            return ""
        at, self._opened = self._call_start()
        at = len(self._held[:at].rstrip())  # space before a call is not content
        shown, self._held = self._held[:at], self._held[at:]
        self._has_text = self._has_text or bool(shown.strip())
        return shown

    def end(self) -> tuple[str, list[ToolCall]]:
        """Return the rest of the content, and the calls. A malformed call is content."""
        calls = self._form.calls(self._held, self._names) if self._held.strip() else None
        if calls is None:
            return self._held, []
        return "", calls

    def _call_start(self) -> tuple[int, bool]:
        """Return where the withheld text starts, and whether a call certainly starts there."""
        opening = self._form.opening
        if not opening:
            # A call is the whole answer, so text before it decides.
            stripped = self._held.lstrip()
            if self._has_text or (stripped and stripped[0] not in "[{"):
                return len(self._held), False
            return 0, bool(stripped)
        at = self._held.find(opening)
        if at >= 0:
            return at, True
        longest = min(len(opening) - 1, len(self._held))
        for length in range(longest, 0, -1):
            if opening.startswith(self._held[-length:]):
                return len(self._held) - length, False
        return len(self._held), False


def _json_values(text: str) -> Iterator[tuple[int, Any, int]]:
    for at, character in enumerate(text):
        if character in "[{":
            try:
                value, end = _JSON.raw_decode(text, at)
            except ValueError:
                continue
            yield at, value, end


def _as_object(value: Any) -> dict[str, Any] | None:
    """Return arguments, which may be JSON text, as an object; None if they are not one."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    return value if isinstance(value, dict) else None
