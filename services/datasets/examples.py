"""Reader of examples, which turns each line or row into a conversation."""

from __future__ import annotations

from itertools import dropwhile
from typing import Any

from domain.datasets.columns import Columns, Role
from infrastructure.datasets.chat_columns import NAMES, BadColumn, has_value, plain_name, to_example
from infrastructure.datasets.preference_columns import (
    INPUT,
    PREFERRED,
    REJECTED,
    conversations_of,
    equal_answers,
    to_pair,
)
from services.datasets.json_line import parse
from services.datasets.key_columns import USELESS_KEYS, KeyColumns
from services.datasets.messages import Message, Notes, normalized, plain_messages
from services.datasets.report import NAMES_SHOWN, Code, Refused, quoted
from services.datasets.tools import Tools, check_calls, check_tool_messages, read_tools

TOP_LEVEL_KEYS = {"messages", "prompt", "completion"}
TOOL_KEYS = {"tools", "functions"}
PAIR_KEYS = {*NAMES[Role.CHOSEN], *NAMES[Role.REJECTED]}
CHAT_KEYS = {"messages", *NAMES[Role.ASSISTANT]}


def read_example(
    text: str, notes: Notes, *, ignore_tools: bool = False, keys: KeyColumns | None = None
) -> dict[str, Any]:
    """Return the normalized example of a JSON text: `messages`, and `tools` if it defines some.

    `keys` give the columns of the object. Without any, it has either `messages`, or `prompt` and
    `completion`. Prompt and completion are strings or lists of messages. Append the warnings of
    the example to `notes`. If `ignore_tools` is true, the example has no tools, and a warning says
    so. Raise Refused if the text is not a valid example.
    """
    keys = keys or KeyColumns()
    if keys.columns is None and (messages := plain_messages(text)) is not None:
        _check_conversation(messages, notes)
        return {"messages": messages}
    value = parse(text)
    if not isinstance(value, dict):
        raise Refused(Code.NOT_OBJECT, f"The example is {quoted(value)}. Write a JSON object.")
    if keys.columns is None:
        _require_chat(value)
    columns = keys.of(value, notes)
    if columns is None:
        return _normalized(value, notes, ignore_tools)
    return read_row(value, notes, columns, ignore_tools=ignore_tools)


def read_row(
    row: dict[str, Any], notes: Notes, columns: Columns, *, ignore_tools: bool = False
) -> dict[str, Any]:
    """Return the normalized example of a row, like `read_example`. Errors name the column.

    With columns for a preferred and a rejected answer, the example is a preference pair in OpenAI's
    format: `input` with `messages` and `tools` if it defines some, `preferred_output` and
    `non_preferred_output`.
    """
    try:
        if Role.CHOSEN in columns:
            return _pair(row, columns, notes, ignore_tools)
        value = to_example(row, columns, _cell)
    except BadColumn as error:
        raise Refused(Code(error.code), error.message) from None
    try:
        return _normalized(value, notes, ignore_tools)
    except Refused as error:
        if Role.MESSAGES in columns:
            error.message = f"Column {quoted(columns[Role.MESSAGES])}: {error.message}"
        raise


def _pair(
    row: dict[str, Any], columns: Columns, notes: Notes, ignore_tools: bool
) -> dict[str, Any]:
    names = {
        INPUT: quoted(columns.get(Role.USER, columns[Role.CHOSEN])),
        PREFERRED: quoted(columns[Role.CHOSEN]),
        REJECTED: quoted(columns[Role.REJECTED]),
    }
    answers = (columns[Role.CHOSEN], columns[Role.REJECTED])
    given = {plain_name(name) for name, value in row.items() if has_value(value)}
    if given & CHAT_KEYS and not any(has_value(row.get(name)) for name in answers):
        raise Refused(
            Code.MIXED_KINDS,
            "The example is a chat, but the file has preference pairs. Upload chats and preference "
            "pairs in separate files.",
        )
    raw = to_pair(row, columns, _cell)
    prompt = _named_messages(raw[INPUT]["messages"], names[INPUT], notes)
    if prompt[-1]["role"] == "assistant":
        raise Refused(
            Code.BAD_PROMPT,
            f"Column {names[INPUT]}: The prompt ends with an assistant message. End it with a user "
            "message.",
        )
    pair: dict[str, Any] = {INPUT: {"messages": prompt}}
    for key in (PREFERRED, REJECTED):
        pair[key] = _named_messages(raw[key], names[key], notes)
        if not any(message["role"] == "assistant" for message in pair[key]):
            raise Refused(
                Code.NO_ASSISTANT,
                f"Column {names[key]}: The answer has no assistant message. Add one.",
            )
    if pair[PREFERRED] == pair[REJECTED]:
        raise equal_answers(names[PREFERRED], names[REJECTED])
    checks: Tools = {}
    if ignore_tools:
        if raw[INPUT].get("tools"):
            notes.append((Code.TOOL_DEFINITIONS, ()))
    else:
        tools, checks = read_tools(raw[INPUT])
        if tools:
            pair[INPUT]["tools"] = tools
    for key, conversation in zip((PREFERRED, REJECTED), conversations_of(pair), strict=True):
        try:
            _check_conversation(conversation["messages"], notes)
            if not ignore_tools:
                check_calls(conversation["messages"], checks, notes)
        except Refused as error:
            error.message = f"Prompt with column {names[key]}: {error.message}"
            error.position = None
            raise
    return pair


def _named_messages(raw: list[Any], name: str, notes: Notes) -> list[Message]:
    """Return the normalized messages of a column. Errors name it."""
    try:
        return [normalized(message, position, notes) for position, message in enumerate(raw, 1)]
    except Refused as error:
        error.message = f"Column {name}: {error.message}"
        error.position = None
        raise


def _require_chat(value: dict[str, Any]) -> None:
    if any(has_value(value.get(key)) for key in PAIR_KEYS):
        raise Refused(
            Code.MIXED_KINDS,
            "The example is a preference pair, but the file starts with chats. Upload chats and "
            "preference pairs in separate files.",
        )


def _cell(text: str) -> Any:
    try:
        return parse(text)
    except Refused as error:
        raise ValueError(error.message) from None


def _normalized(value: dict[str, Any], notes: Notes, ignore_tools: bool) -> dict[str, Any]:
    messages = _messages(value, notes)
    _check_conversation(messages, notes)
    if ignore_tools:
        if any(value.get(key) for key in TOOL_KEYS):
            notes.append((Code.TOOL_DEFINITIONS, ()))
        return {"messages": messages}
    tools, checks = read_tools(value)
    check_calls(messages, checks, notes)
    return {"messages": messages, "tools": tools} if tools else {"messages": messages}


def _messages(value: dict[str, Any], notes: Notes) -> list[Message]:
    plain = len(value) == 1 and "messages" in value
    raw = value["messages"] if plain else _raw_messages(value, notes)
    if not isinstance(raw, list):
        raise Refused(
            Code.MESSAGES_NOT_LIST, f'"messages" is {quoted(raw)}. Write a list of messages.'
        )
    if not raw:
        raise Refused(Code.NO_MESSAGES, '"messages" is empty. Add messages or remove the example.')
    messages: list[Message] = []
    for position, message in enumerate(raw, 1):
        try:
            messages.append(normalized(message, position, notes))
        except Refused as error:
            error.position = position
            raise
    return messages


def _raw_messages(value: dict[str, Any], notes: Notes) -> Any:
    """Return the raw messages of an object that has keys other than `messages`."""
    present = {key for key in value if value[key] is not None}
    known = TOP_LEVEL_KEYS | TOOL_KEYS | USELESS_KEYS
    if unused := [key for key in value if key in present and key not in known]:
        notes.append((Code.UNUSED_KEYS, tuple(map(quoted, unused[:NAMES_SHOWN]))))
    if "messages" in present:
        if present & {"prompt", "completion"}:
            raise Refused(
                Code.AMBIGUOUS_EXAMPLE,
                'The example has "messages" together with "prompt" or "completion". Keep one of '
                "the two forms.",
            )
        return value["messages"]
    if not present & {"prompt", "completion"}:
        keys = ", ".join(quoted(key) for key in list(value)[:5]) or "no keys"
        raise Refused(
            Code.MISSING_MESSAGES,
            f'The example has {keys}. Add "messages", or "prompt" and "completion", or choose the '
            "columns of the dataset.",
        )
    return _prompt(value.get("prompt")) + _completion(value.get("completion"))


def _prompt(prompt: Any) -> list[Any]:
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    if not isinstance(prompt, list) or not prompt:
        raise Refused(
            Code.BAD_PROMPT, f'"prompt" is {quoted(prompt)}. Write a string or a list of messages.'
        )
    # The loss covers only the completion. Assistant messages of the prompt are context.
    return [
        {**message, "weight": 0}
        if isinstance(message, dict)
        and message.get("role") == "assistant"
        and message.get("weight") is None
        else message
        for message in prompt
    ]


def _completion(completion: Any) -> list[Any]:
    if isinstance(completion, str):
        return [{"role": "assistant", "content": completion}]
    if not isinstance(completion, list) or not completion:
        raise Refused(
            Code.BAD_COMPLETION,
            f'"completion" is {quoted(completion)}. Write a string or a list of messages.',
        )
    return completion


def _check_conversation(messages: list[Message], notes: Notes) -> None:
    roles = [message["role"] for message in messages]
    if roles[0] == "assistant":
        raise Refused(
            Code.FIRST_MESSAGE,
            "The first message is from the assistant. Start with a system or user message.",
            position=1,
        )
    if "tool" in roles:
        check_tool_messages(messages)
    if "assistant" not in roles:
        raise Refused(
            Code.NO_ASSISTANT, "The example has no assistant message to train on. Add one."
        )
    if all(each.get("weight") == 0 for each in messages if each["role"] == "assistant"):
        raise Refused(
            Code.NOTHING_TO_LEARN,
            "Every assistant message has weight 0. Set a weight to 1, or remove the example.",
        )
    if "system" in roles[1:] and "system" in dropwhile(lambda role: role == "system", roles):
        notes.append((Code.SYSTEM_NOT_FIRST, ()))
    if roles[-1] != "assistant":
        notes.append((Code.ENDS_WITHOUT_ASSISTANT, ()))
