"""Conversion of rows to preference pairs in OpenAI's format, and of pairs to conversations.

A pair is `{"input": {"messages", "tools"?}, "preferred_output": [..], "non_preferred_output":
[..]}`. As in TRL, the prompt is a column of its own, or the beginning that both answers share.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from itertools import takewhile
from typing import Any

from domain.datasets.columns import Columns, Role
from infrastructure.datasets.chat_columns import (
    BadColumn,
    conversation_in,
    has_value,
    history_of,
    input_beside_messages,
    message_of,
    optional_text,
    shown,
    tools_of,
)

INPUT, PREFERRED, REJECTED = "input", "preferred_output", "non_preferred_output"
"""Keys of a pair."""

ANSWERS = ("assistant", "tool")
"""Roles of the first message of an answer. Another one starts a whole conversation."""

TURN = re.compile(r"\n\n(Human|Assistant):")
"""Start of a message in a text with a whole conversation, as in Anthropic's HH-RLHF."""

Parse = Callable[[str], Any]
Message = Any
"""A raw message, which may be of any type."""


def is_pair(example: Mapping[str, Any]) -> bool:
    """Return True if a normalized example is a preference pair, and False for a chat."""
    return PREFERRED in example


def conversations_of(example: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a chat, or a conversation per answer of a pair, the preferred one first."""
    if not is_pair(example):
        return [dict(example)]
    prompt = [
        {**message, "weight": 0} if message["role"] == "assistant" else message
        for message in example[INPUT]["messages"]
    ]
    tools = {"tools": example[INPUT]["tools"]} if "tools" in example[INPUT] else {}
    return [{"messages": [*prompt, *example[key]], **tools} for key in (PREFERRED, REJECTED)]


def to_pair(row: Mapping[str, Any], columns: Columns, parse: Parse = json.loads) -> dict[str, Any]:
    """Return a row as a pair with raw messages. Raise BadColumn if a cell cannot be used.

    `parse` reads JSON in a cell, and raises ValueError or BadColumn.
    """
    prompt, tools = _prompt(row, columns, parse), tools_of(row, columns, parse)
    raw = row.get(columns[Role.USER]) if Role.USER in columns else None
    if isinstance(raw, dict) and not tools:
        tools = raw.get("tools")
    chosen, rejected = (_answer(row, columns, role, parse) for role in (Role.CHOSEN, Role.REJECTED))
    if _role(chosen[0]) in ANSWERS and _role(rejected[0]) in ANSWERS:
        if not prompt:
            raise BadColumn(
                "bad_prompt",
                "The row has no prompt. Choose a column with the role user, or write whole "
                "conversations as answers.",
            )
    else:
        prompt, chosen, rejected = _split(prompt, chosen, rejected, columns)
    if system := optional_text(row, columns, Role.SYSTEM):
        if _role(prompt[0]) in ("system", "developer"):
            if prompt[0].get("content") != system:
                raise BadColumn(
                    "ambiguous_example",
                    "The prompt has a system message, but so has the column "
                    f"{shown(columns[Role.SYSTEM])} (system). Keep one of them.",
                )
        else:
            prompt = [{"role": "system", "content": system}, *prompt]
    given = {"messages": prompt, "tools": tools} if tools else {"messages": prompt}
    return {INPUT: given, PREFERRED: chosen, REJECTED: rejected}


def _prompt(row: Mapping[str, Any], columns: Columns, parse: Parse) -> list[Message]:
    """Return the messages of the prompt's column, with earlier turns; none without the column."""
    if Role.USER not in columns:
        for role in (Role.INPUT, Role.HISTORY):
            if role in columns and has_value(row.get(columns[role])):
                raise BadColumn(
                    "bad_prompt",
                    f"The column {shown(columns[role])} ({role}) belongs to a prompt, but the row "
                    "has none. Choose a column with the role user, or the columns without "
                    f"{shown(columns[role])} to ignore it.",
                )
        return []
    name = columns[Role.USER]
    value = row.get(name)
    if isinstance(value, dict) and "messages" in value:
        value = value["messages"]
    if isinstance(value, str) and (messages := conversation_in(value)) is not None:
        value = messages
    more = optional_text(row, columns, Role.INPUT)
    if more and (not isinstance(value, str) or _turns(value)):
        raise input_beside_messages(columns)
    if isinstance(value, str) and value.strip():
        text = f"{value}\n\n{more}" if more else value
        turns: list[Message] = _turns(value) or [{"role": "user", "content": text}]
    elif isinstance(value, list) and value:
        turns = [message_of(each, name, at, parse) for at, each in enumerate(value, 1)]
    else:
        raise BadColumn(
            "bad_prompt",
            f"The column {shown(name)} (user) is {shown(value)}. Write the prompt as "
            "text or as a list of messages.",
        )
    return [*history_of(row, columns, parse), *turns]


def _answer(row: Mapping[str, Any], columns: Columns, role: Role, parse: Parse) -> list[Message]:
    name = columns[role]
    value = row.get(name)
    if isinstance(value, str) and (messages := conversation_in(value)) is not None:
        value = messages
    if isinstance(value, str) and value.strip():
        turns = [] if Role.USER in columns else _turns(value)
        return turns or [{"role": "assistant", "content": value}]
    if isinstance(value, dict):
        value = [value]
    if isinstance(value, list) and value:
        return [message_of(each, name, at, parse) for at, each in enumerate(value, 1)]
    empty = value is None or value in ("", []) or isinstance(value, str)
    found = ("missing" if value is None else "empty") if empty else shown(value)
    raise BadColumn(
        "missing_answer" if empty else "content_not_text",
        f"The answer in the column {shown(name)} ({role}) is {found}. Write text or a list "
        "of messages, or remove the row.",
    )


def _turns(text: str) -> list[Message]:
    """Return the messages of a text in which `Human:` and `Assistant:` start each; else none."""
    if not TURN.match(text):
        return []
    _, *parts = TURN.split(text)
    roles = {"Human": "user", "Assistant": "assistant"}
    pairs = zip(parts[::2], parts[1::2], strict=True)
    return [{"role": roles[name], "content": content.strip()} for name, content in pairs]


def _split(
    prompt: list[Message], chosen: list[Message], rejected: list[Message], columns: Columns
) -> tuple[list[Message], list[Message], list[Message]]:
    """Return the shared beginning of two conversations, and the rest of each.

    Raise BadColumn if they share none, one has no rest, or `prompt` differs from the beginning.
    """
    names = tuple(shown(columns[role]) for role in (Role.CHOSEN, Role.REJECTED))
    if chosen == rejected:
        raise equal_answers(*names)
    shared = sum(1 for _ in takewhile(lambda both: both[0] == both[1], zip(chosen, rejected)))  # noqa: B905  # stops at the shorter one
    if shared in (len(chosen), len(rejected)):
        name = names[0] if shared == len(chosen) else names[1]
        raise BadColumn(
            "missing_answer",
            f"The conversation in the column {name} ends where the other one continues, so it has "
            "no answer. Add one.",
        )
    start = chosen[:shared]
    if not start or _role(chosen[shared]) not in ANSWERS or _role(rejected[shared]) not in ANSWERS:
        raise prompt_differs(
            f"The conversations in the columns {names[0]} and {names[1]} differ in message "
            f"{shared + 1}, which is not from the assistant in both."
        )
    if prompt and not _agrees(prompt, start):
        raise prompt_differs(
            f"The prompt in the column {shown(columns[Role.USER])} is not the beginning of "
            "the conversations."
        )
    return start, chosen[shared:], rejected[shared:]


def _agrees(prompt: list[Message], start: list[Message]) -> bool:
    """Return True if a prompt is the beginning of conversations, or its last part."""
    if prompt == start or prompt == start[-len(prompt) :]:
        return True
    texts = [each.get("content") for each in (prompt[-1], start[-1]) if isinstance(each, dict)]
    return len(prompt) == 1 and len(texts) == 2 and texts[0] == texts[1]


def equal_answers(chosen: str, rejected: str) -> BadColumn:
    """Return the error of a pair whose answers are equal."""
    return BadColumn(
        "equal_answers",
        f"The answers in {chosen} and {rejected} are equal, so none is preferred. Change one, or "
        "remove the row.",
    )


def prompt_differs(reason: str) -> BadColumn:
    """Return the error of a pair without a common prompt."""
    return BadColumn(
        "prompt_differs",
        f"{reason} Both answers must follow the same prompt. Correct the row, or remove it.",
    )


def _role(message: Message) -> Any:
    return message.get("role") if isinstance(message, dict) else None


def messages_of(pair: Mapping[str, Any]) -> Iterator[tuple[str, list[Message]]]:
    """Yield the raw messages of a pair: the prompt, and the preferred and rejected answers."""
    yield INPUT, pair[INPUT]["messages"]
    yield PREFERRED, pair[PREFERRED]
    yield REJECTED, pair[REJECTED]
