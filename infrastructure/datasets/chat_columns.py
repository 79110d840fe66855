"""Guessing of columns, and conversion of rows to examples in OpenAI's format.

Nothing here reads files. The datasets service converts the rows of an upload, and the gateway
converts a few of them for a preview.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any

from domain.datasets.columns import NOT_OF_PAIRS, OF_PAIRS, OF_TURNS, Columns, Role

NAMES: Mapping[Role, tuple[str, ...]] = {
    Role.MESSAGES: (
        *("messages", "conversations", "conversation", "dialogue", "dialog", "chat", "turns"),
    ),
    Role.SYSTEM: ("system", "system_prompt", "system_message"),
    Role.USER: (
        *("prompt", "instruction", "question", "user", "query", "user_prompt", "user_message"),
        *("human", "problem", "request", "input"),
    ),
    Role.INPUT: ("input",),
    Role.ASSISTANT: (
        *("completion", "output", "answer", "response", "assistant", "assistant_message", "reply"),
        *("solution", "target", "gpt"),
    ),
    Role.CHOSEN: ("chosen", "preferred_output", "preferred", "chosen_response", "response_chosen"),
    Role.REJECTED: (
        *("rejected", "non_preferred_output", "rejected_response", "response_rejected"),
        "dispreferred",
    ),
    Role.HISTORY: ("history",),
    Role.TOOLS: ("tools", "functions"),
    Role.WEIGHT: ("weight",),
}
"""Names of columns by role, the most telling first, in lower case with underscores."""

KNOWN_NAMES = {name for names in NAMES.values() for name in names}

SHAREGPT_ROLES: Mapping[str, str] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "system": "system",
    "tool": "tool",
    "observation": "tool",
    "function_response": "tool",
    "function_call": "assistant",
}
"""Roles of OpenAI's format for the senders of ShareGPT's."""


class Shape(StrEnum):
    """Shapes of the rows of a dataset."""

    OPENAI = "OpenAI messages"
    PROMPT_COMPLETION = "prompt and completion"
    SHAREGPT = "ShareGPT"
    ALPACA = "Alpaca"
    PAIRS = "question and answer columns"
    OPENAI_PREFERENCES = "OpenAI preference pairs"
    CHOSEN_REJECTED = "chosen and rejected answers"


class BadColumn(Exception):
    """A row does not have what its columns need. `code` is that of a validation error."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def guess_columns(
    names: Sequence[str], rows: Sequence[Mapping[str, Any]], *, by_position: bool = False
) -> dict[Role, str] | None:
    """Guess the columns from their names and from the values of some rows; None without a guess.

    With `by_position`, two columns of text with unknown names are the user's text and the answer.
    """
    named = {plain_name(name): name for name in reversed(names)}
    found: dict[Role, str] = {}
    usual = {
        name for name in names if 2 * sum(has_value(row.get(name)) for row in rows) >= len(rows)
    }
    for role in Role:
        suiting = [
            named[each]
            for each in (NAMES[role] if role is not Role.INPUT else ())
            if each in named and _suits(role, [row.get(named[each]) for row in rows])
        ]
        if suiting:
            found[role] = next((name for name in suiting if name in usual), suiting[0])
    more = named.get("input")
    is_free = Role.USER in found and more != found[Role.USER]
    if is_free and more is not None and _suits(Role.INPUT, [row.get(more) for row in rows]):
        found[Role.INPUT] = more
    if all(role in found for role in OF_PAIRS):
        return _of_pairs(found, rows)
    for role in OF_PAIRS:
        found.pop(role, None)
    turns = (found.get(Role.USER), found.get(Role.ASSISTANT))
    if Role.MESSAGES in found and (found[Role.MESSAGES] in usual or not usual.issuperset(turns)):
        return {role: name for role, name in found.items() if role not in OF_TURNS}
    if by_position and not (Role.USER in found and Role.ASSISTANT in found):
        free = [
            name
            for name in names
            if name not in found.values()
            and _suits(Role.USER, [row.get(name) for row in rows])
            and any(isinstance(row.get(name), str) for row in rows)
        ]
        missing = [role for role in (Role.USER, Role.ASSISTANT) if role not in found]
        if len(free) == len(missing):
            found |= dict(zip(missing, free, strict=True))
    if Role.USER not in found or Role.ASSISTANT not in found:
        return None
    return {role: found[role] for role in Role if role in found and role is not Role.MESSAGES}


def _of_pairs(found: Columns, rows: Sequence[Mapping[str, Any]]) -> dict[Role, str]:
    """Return the columns of preference pairs. Messages are the prompt if nothing else is."""
    columns = dict(found)
    if Role.USER not in columns and Role.MESSAGES in columns:
        chosen = (row.get(columns[Role.CHOSEN]) for row in rows)
        if not any(isinstance(each, list) and len(each) > 1 for each in chosen):
            columns[Role.USER] = columns[Role.MESSAGES]
    return {role: columns[role] for role in Role if role in columns and role not in NOT_OF_PAIRS}


def free_role(name: str, columns: Columns) -> Role | None:
    """Return a known name's role that no column has, and that the others do not replace."""
    plain, replaced = plain_name(name), _replaced(columns) or (Role.MESSAGES,)
    for role, names in NAMES.items():
        if plain in names and role not in columns and role not in replaced:
            return role
    return None


def without_role(
    columns: Columns, names: Iterable[str], rows: Sequence[Mapping[str, Any]]
) -> tuple[str, Role, int] | None:
    """Return a known name that has no role because its values do not suit it, or None.

    The result also has the role, and the index of the first row with an unsuitable value. A name
    is not returned if the other columns replace it, or if a more telling name has its role.
    """
    for name in names:
        cells, plain = [row.get(name) for row in rows], plain_name(name)
        for role, known in NAMES.items():
            if plain not in known or name in columns.values() or role in _replaced(columns):
                continue
            other = plain_name(columns[role]) if role in columns else None
            if other in known and known.index(other) < known.index(plain):
                continue
            bad = [at for at, cell in enumerate(cells) if has_value(cell) and not _fits(role, cell)]
            if role in OF_PAIRS:  # without the other answer
                bad = [at for at, cell in enumerate(cells) if has_value(cell)]
            if bad and 2 * len(bad) >= len(cells):  # fewer are errors of their rows
                return name, role, bad[0]
    return None


def _replaced(columns: Columns) -> tuple[Role, ...]:
    """Return the roles that the columns replace, such as a prompt beside messages."""
    if Role.CHOSEN in columns:
        return NOT_OF_PAIRS
    return OF_TURNS if Role.MESSAGES in columns else ()


def has_value(value: Any) -> bool:
    """Return True unless a cell is empty."""
    return value not in (None, "", [], {}) and not (isinstance(value, str) and value.isspace())


def shape_of(columns: Columns, rows: Iterable[Mapping[str, Any]]) -> Shape:
    """Return the shape of rows with these columns."""
    if Role.CHOSEN in columns:
        openai = plain_name(columns[Role.CHOSEN]) == "preferred_output"
        return Shape.OPENAI_PREFERENCES if openai else Shape.CHOSEN_REJECTED
    if (name := columns.get(Role.MESSAGES)) is not None:
        values = (_listed(row.get(name)) for row in rows)
        senders = any(
            isinstance(each, dict) and "from" in each for value in values for each in value or ()
        )
        conversations = plain_name(name) in ("conversations", "conversation")
        return Shape.SHAREGPT if senders or conversations else Shape.OPENAI
    user, assistant = (plain_name(columns[role]) for role in (Role.USER, Role.ASSISTANT))
    if (user, assistant) == ("prompt", "completion"):
        return Shape.PROMPT_COMPLETION
    return Shape.ALPACA if (user, assistant) == ("instruction", "output") else Shape.PAIRS


def is_openai(columns: Columns, rows: Sequence[Mapping[str, Any]]) -> bool:
    """Return True if the rows already are chats in OpenAI's format."""
    if Role.CHOSEN in columns:
        return False
    shape = shape_of(columns, rows)
    names = {role: {str(role)} for role in Role} | {
        Role.TOOLS: {"tools", "functions"},
        Role.USER: {"prompt"},
        Role.ASSISTANT: {"completion"},
    }
    forms = {Role.MESSAGES, Role.USER, Role.ASSISTANT, Role.TOOLS}
    return shape in (Shape.OPENAI, Shape.PROMPT_COMPLETION) and all(
        role in forms and name in names[role] for role, name in columns.items()
    )


def to_example(
    row: Mapping[str, Any], columns: Columns, parse: Callable[[str], Any] = json.loads
) -> dict[str, Any]:
    """Return a row as an example in OpenAI's format, with raw `messages`, and `tools` if any.

    `parse` reads JSON in a cell, and raises ValueError or BadColumn. Raise BadColumn if a cell
    cannot be used. The messages themselves are not checked.
    """
    weight = _weight(row, columns)
    if Role.MESSAGES in columns:
        messages = _conversation(row, columns[Role.MESSAGES], parse)
        messages = _weighted(messages, weight)
    else:
        messages = [
            *history_of(row, columns, parse),
            *_prompt(row, columns),
            *_weighted(_turn(row, columns, Role.ASSISTANT), weight),
        ]
    if system := optional_text(row, columns, Role.SYSTEM):
        first = messages[0] if messages else None
        if isinstance(first, dict) and first.get("role") in ("system", "developer"):
            if first.get("content") != system:
                raise BadColumn(
                    "ambiguous_example",
                    "The messages have a system message, but so has the column "
                    f"{_name(columns, 'system')}. Keep one of them, or choose the columns without "
                    "this one to ignore it.",
                )
        else:
            messages = [{"role": "system", "content": system}, *messages]
    tools = tools_of(row, columns, parse)
    return {"messages": messages, "tools": tools} if tools else {"messages": messages}


def _conversation(row: Mapping[str, Any], name: str, parse: Callable[[str], Any]) -> list[Any]:
    value = row.get(name)
    if isinstance(value, str):
        value = _parsed(value, name, parse)
    if not isinstance(value, list):
        raise BadColumn(
            "messages_not_list",
            f"The column {shown(name)} is {shown(value)}. Write a list of messages.",
        )
    return [message_of(each, name, position, parse) for position, each in enumerate(value, 1)]


def message_of(raw: Any, name: str, position: int, parse: Callable[[str], Any]) -> Any:
    """Return a message of a conversation, with the keys of OpenAI's format."""
    if not isinstance(raw, dict):
        return raw
    sender = raw.get("from", raw.get("role"))
    if not isinstance(sender, str) or sender not in SHAREGPT_ROLES:
        if "from" not in raw:
            return raw
        raise BadColumn(
            "wrong_role",
            f"Message {position} in the column {shown(name)} is from {shown(sender)}. Use "
            "human, gpt, system, tool, function_call or observation.",
        )
    text = raw["value"] if "value" in raw else raw.get("content")
    rest = {
        each: value
        for each, value in raw.items()
        if each not in ("from", "role", "value", "content")
    }
    if sender == "function_call":
        calls = _calls(text, name, position, parse)
        return {"role": "assistant", "content": None, "tool_calls": calls, **rest}
    return {"role": SHAREGPT_ROLES[sender], "content": text, **rest}


def _calls(text: Any, name: str, position: int, parse: Callable[[str], Any]) -> list[Any]:
    """Return the tool calls of a ShareGPT message from `function_call`."""
    value = _parsed(text, name, parse) if isinstance(text, str) else text
    calls = value if isinstance(value, list) else [value]
    if not calls or not all(isinstance(each, dict) and "name" in each for each in calls):
        raise BadColumn(
            "bad_tool_calls",
            f"Message {position} in the column {shown(name)} is {shown(text)}. Write the call "
            'as JSON with "name" and "arguments".',
        )
    return [
        {
            "type": "function",
            "function": {"name": each["name"], "arguments": each.get("arguments") or {}},
        }
        for each in calls
    ]


def _prompt(row: Mapping[str, Any], columns: Columns) -> list[Any]:
    turns = _turn(row, columns, Role.USER)
    more = optional_text(row, columns, Role.INPUT)
    if more:
        if not isinstance(row.get(columns[Role.USER]), str):
            raise input_beside_messages(columns)
        turns[-1]["content"] += "\n\n" + more
    # The loss covers only the completion. Assistant messages of the prompt are context.
    return [
        {**each, "weight": 0}
        if isinstance(each, dict) and each.get("role") == "assistant" and each.get("weight") is None
        else each
        for each in turns
    ]


def input_beside_messages(columns: Columns) -> BadColumn:
    """Return the error of a row whose user column has messages, to which no text can be added."""
    return BadColumn(
        "ambiguous_example",
        f"The column {_name(columns, 'input')} has text, but the column {_name(columns, 'user')} "
        "has messages. Add the text to them, or choose the columns without the first one.",
    )


def _turn(row: Mapping[str, Any], columns: Columns, role: Role) -> list[Any]:
    name = columns[role]
    value = row.get(name)
    if isinstance(value, list) and value:
        return list(value)
    if not isinstance(value, str) and value is not None:
        raise BadColumn(
            "content_not_text",
            f"The column {shown(name)} ({role}) is {shown(value)}. Write text or messages.",
        )
    if value is None or not value or value.isspace():
        found = "missing" if value is None else "empty"
        raise BadColumn(
            "empty_content",
            f"The column {shown(name)} ({role}) is {found}. Add text, or remove the row.",
        )
    return [{"role": "user" if role is Role.USER else "assistant", "content": value}]


def history_of(
    row: Mapping[str, Any], columns: Columns, parse: Callable[[str], Any]
) -> list[dict[str, Any]]:
    """Return the earlier turns, which are pairs of a user's text and its answer."""
    if Role.HISTORY not in columns:
        return []
    name = columns[Role.HISTORY]
    value = row.get(name)
    if isinstance(value, str) and value.strip():
        value = _parsed(value, name, parse)
    turns: list[dict[str, Any]] = []
    for pair in value if isinstance(value, list) else [value] if value else []:
        if not isinstance(pair, list) or len(pair) != 2:
            raise BadColumn(
                "messages_not_list",
                f"The column {shown(name)} (history) has {shown(pair)}. Write a list of pairs "
                "of a user's text and its answer.",
            )
        turns += [
            {"role": "user", "content": pair[0]},
            {"role": "assistant", "content": pair[1]},
        ]
    return turns


def optional_text(row: Mapping[str, Any], columns: Columns, role: Role) -> str | None:
    """Return the text of a column, or None if the cell is empty."""
    value = row.get(columns[role]) if role in columns else None
    if value is not None and not isinstance(value, str):
        raise BadColumn(
            "content_not_text",
            f"The column {shown(columns[role])} ({role}) is {shown(value)}. Write text.",
        )
    return value if value and not value.isspace() else None


def tools_of(row: Mapping[str, Any], columns: Columns, parse: Callable[[str], Any]) -> Any:
    """Return the tool definitions of a row. ShareGPT has them as JSON, and without their type."""
    if Role.TOOLS not in columns:
        return None
    name = columns[Role.TOOLS]
    value = row.get(name)
    if isinstance(value, str):
        value = _parsed(value, name, parse) if value.strip() else None
    if isinstance(value, dict) and value:
        value = [value]
    if not isinstance(value, list):
        return value
    return [
        {"type": "function", "function": each}
        if isinstance(each, dict) and "name" in each and "function" not in each
        else each
        for each in value
    ]


def _weight(row: Mapping[str, Any], columns: Columns) -> int | None:
    value = row.get(columns[Role.WEIGHT]) if Role.WEIGHT in columns else None
    if not has_value(value):
        return None
    if type(value) not in (int, float, str) or value not in WEIGHTS:
        raise BadColumn(
            "bad_weight",
            f"The column {_name(columns, 'weight')} is {shown(value)}. Use 1, or 0 to exclude "
            "the answer from the loss.",
        )
    return WEIGHTS[value]


WEIGHTS: Mapping[Any, int] = {0: 0, 1: 1, "0": 0, "1": 1}
"""Values of a column for the weight. Floating-point numbers equal integers."""


def _weighted(messages: list[Any], weight: int | None) -> list[Any]:
    """Give assistant messages without a weight this one."""
    if weight is None:
        return messages
    return [
        {**each, "weight": weight}
        if isinstance(each, dict) and each.get("role") == "assistant" and each.get("weight") is None
        else each
        for each in messages
    ]


def _parsed(text: str, name: str, parse: Callable[[str], Any]) -> Any:
    try:
        return parse(text)
    except (ValueError, RecursionError):
        raise BadColumn(
            "malformed_json",
            f"The column {shown(name)} is {shown(text)}, which is not JSON. Write JSON.",
        ) from None


def _suits(role: Role, values: Sequence[Any]) -> bool:
    """Return True if the values suit the role, except those of a minority of rows."""
    given = list(filter(has_value, values))
    good = sum(_fits(role, value) for value in given)
    if role is Role.MESSAGES:
        return good > 0
    if role in OF_PAIRS:  # pairs among chats are errors of their rows
        return 0 < len(values) <= 2 * good
    return good == len(given) or 2 * (len(given) - good) < len(values)


def _fits(role: Role, value: Any) -> bool:
    match role:
        case Role.MESSAGES:
            return _is_conversation(_listed(value))
        case Role.WEIGHT:
            return type(value) in (int, float, str) and value in WEIGHTS
        case Role.HISTORY:
            return _listed(value) is not None
        case Role.TOOLS:
            return _listed(value) is not None or _is_object(value)
        case Role.CHOSEN | Role.REJECTED:
            return isinstance(value, str | list | dict)
        case Role.SYSTEM | Role.INPUT:
            return isinstance(value, str)
        case _:
            return isinstance(value, str | list) or (
                isinstance(value, dict) and isinstance(value.get("messages"), list)
            )


def conversation_in(text: str) -> list[Any] | None:
    """Return the messages in a cell with JSON; None for other texts."""
    found = _listed(text)
    return found if _is_conversation(found) else None


def _listed(value: Any) -> list[Any] | None:
    """Return a list, which may be JSON in a cell of a table; None for other values."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    return value if isinstance(value, list) else None


def _is_conversation(value: list[Any] | None) -> bool:
    return bool(value) and any(
        isinstance(each, dict) and ("role" in each or "from" in each) for each in value or ()
    )


def _is_object(value: Any) -> bool:
    """Return True for an object, which may be JSON in a cell of a table."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return False
    return isinstance(value, dict)


def plain_name(name: str) -> str:
    """Return the name of a column in lower case, with underscores between words."""
    return re.sub(r"[\W_]+", "_", name.strip().lower()).strip("_")


def _name(columns: Columns, role: str) -> str:
    return f"{shown(columns[Role(role)])} ({role})"


def shown(value: object, limit: int = 40) -> str:
    """Return a value as one short line, for use in a message."""
    if isinstance(value, list):
        return "a list"
    if isinstance(value, dict):
        return "an object"
    text = str(value)
    text = text if len(text) <= limit else text[: limit - 3] + "..."
    shown = "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in text
    )
    return f'"{shown}"' if isinstance(value, str) else shown
