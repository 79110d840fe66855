"""Validation of tool definitions and of the calls of an example, in OpenAI's format."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from infrastructure.chat.json_schema import InvalidSchema, validator_of
from services.datasets.messages import Message, Notes
from services.datasets.report import Code, Refused, quoted
from services.datasets.tool_calls import deeper_than

MOST_TOOLS = 128
"""Maximum number of tools in an example, as in OpenAI's API."""

MAX_DEFINITION_DEPTH = 32

NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)

CACHED_SCHEMAS = 512

Matches = Callable[[Any], bool]
Tools = dict[str, Matches]
"""The check of the arguments of each tool, by the name of the tool."""


def read_tools(value: dict[str, Any]) -> tuple[list[dict[str, Any]], Tools]:
    """Return the tool definitions of a line as written, and the checks of their arguments.

    OpenAI's deprecated `functions` become `tools`. Raise Refused if a definition is invalid.
    """
    raw, key = value.get("tools"), "tools"
    if functions := value.get("functions"):
        if raw:
            raise _bad('The example has "tools" together with "functions". Keep one of the two.')
        raw, key = functions, "functions"
    if not raw:
        return [], {}
    if not isinstance(raw, list):
        raise _bad(f'"{key}" is {quoted(raw)}. Write a list of tool definitions.')
    if len(raw) > MOST_TOOLS:
        raise _bad(f'"{key}" has {len(raw):,} items. Use at most {MOST_TOOLS}.')
    if deeper_than(MAX_DEFINITION_DEPTH, raw):
        raise Refused(
            Code.TOO_DEEP, f'"{key}" has more than {MAX_DEFINITION_DEPTH} levels. Use fewer.'
        )
    tools = raw if key == "tools" else [{"type": "function", "function": each} for each in raw]
    checks: Tools = {}
    for position, tool in enumerate(tools, 1):
        name, matches = _read(tool, position)
        if name in checks:
            raise _bad(f'Two tools have the name "{name}". Rename or remove one of them.')
        checks[name] = matches
    return tools, checks


def _read(tool: Any, position: int) -> tuple[str, Matches]:
    if not isinstance(tool, dict) or tool.get("type") != "function":
        raise _bad(f'Tool {position} needs the "type" "function". Add it, or remove the tool.')
    function = tool.get("function")
    if not isinstance(function, dict):
        raise _bad(f'Tool {position} needs a "function" object. Add it, or remove the tool.')
    name, description = function.get("name"), function.get("description")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise _bad(
            f'The "name" of tool {position} is {quoted(name)}. Use 1 to 64 letters, digits, '
            "underscores, dots or dashes."
        )
    if description is not None and not isinstance(description, str):
        raise _bad(f'The "description" of the tool "{name}" is {quoted(description)}. Write text.')
    parameters = function.get("parameters")
    if parameters is None:
        return name, lambda _: True
    if not isinstance(parameters, dict):
        raise _bad(
            f'The "parameters" of the tool "{name}" are {quoted(parameters)}. Write a JSON schema.'
        )
    try:
        return name, _check_of(json.dumps(parameters))
    except InvalidSchema as error:
        raise _bad(
            f'The "parameters" of the tool "{name}" are not a valid JSON schema. {error}'
        ) from None


@lru_cache(CACHED_SCHEMAS)
def _check_of(schema: str) -> Matches:
    """Return the check of a schema. Most examples of a dataset have the same tools."""
    return validator_of(json.loads(schema)).is_valid


def check_calls(messages: list[Message], tools: Tools, notes: Notes) -> None:
    """Check the tool calls of a conversation against its tools and answers.

    Raise Refused if a call names a tool that the line does not define, or has no answer although
    another message follows. Append a warning if arguments do not match the schema of their tool, or
    if the line calls tools without a definition.
    """
    for position, message in enumerate(messages, 1):
        calls = message.get("tool_calls")
        if not calls:
            continue
        if not tools:
            notes.append((Code.CALLS_WITHOUT_TOOLS, ()))
        for call in calls:
            name = call["function"]["name"]
            if tools and name not in tools:
                raise Refused(
                    Code.UNKNOWN_TOOL,
                    f"Message {position} calls {quoted(name)}, which the example does not define. "
                    'Add this tool to "tools", or correct the name.',
                    position=position,
                )
            if tools and not tools[name](call["function"]["arguments"]):
                notes.append((Code.ARGUMENTS_DIFFER, (quoted(name),)))
        if position < len(messages):
            _require_answers(calls, messages, position)


def _require_answers(calls: list[dict[str, Any]], messages: list[Message], position: int) -> None:
    """Raise Refused unless tool messages after the message at `position` answer all its calls."""
    answers: list[Message] = []
    for message in messages[position:]:
        if message["role"] != "tool":
            break
        answers.append(message)
    given = {message.get("tool_call_id") for message in answers}
    missing = [call["id"] for call in calls if "id" in call and call["id"] not in given]
    if missing:
        what = f'the call {quoted(missing[0])}. Add one with this "tool_call_id"'
    elif len(answers) < len(calls):
        what = f"{len(calls) - len(answers)} of its {len(calls)} calls. Add one for each call"
    else:
        return
    raise Refused(
        Code.UNANSWERED_CALL,
        f"Message {position} calls a tool, but no tool message answers {what}, or end the "
        f"conversation with message {position}.",
        position=position,
    )


def check_tool_messages(messages: list[Message]) -> None:
    """Raise Refused unless each tool message follows the assistant message with its call."""
    call_ids: set[str] | None = None  # None: the previous message has no tool calls
    for position, message in enumerate(messages, 1):
        if message["role"] != "tool":
            calls = message.get("tool_calls")
            call_ids = {call["id"] for call in calls if "id" in call} if calls else None
        elif call_ids is None:
            raise Refused(
                Code.ORPHAN_TOOL_MESSAGE,
                f"Message {position} is from a tool, but no assistant message with "
                f'"tool_calls" precedes it. Add such a message, or remove message {position}.',
                position=position,
            )
        elif call_ids and message.get("tool_call_id") not in call_ids:
            raise Refused(
                Code.BAD_TOOL_CALL_ID,
                f'The "tool_call_id" of message {position} matches no preceding tool call. Use '
                'the "id" of that call.',
                position=position,
            )


def _bad(message: str) -> Refused:
    return Refused(Code.BAD_TOOLS, message)
