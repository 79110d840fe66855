"""The texts of a normalized example that an analysis reads."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from infrastructure.datasets.preference_columns import INPUT, PREFERRED, REJECTED

ANSWERS = (PREFERRED, REJECTED)
"""Keys of a preference pair that have the messages of an answer."""


def messages_of(example: dict[str, Any]) -> list[dict[str, Any]]:
    """Return all messages of an example. Those of a pair are the prompt and both answers."""
    if "messages" in example:
        return example["messages"]
    return [*prompt_of(example), *example[PREFERRED], *example[REJECTED]]


def prompt_of(pair: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the messages of the prompt of a preference pair."""
    return pair[INPUT]["messages"]


def said_in(example: dict[str, Any]) -> Iterator[str]:
    """Yield what users, assistants and tools say, without system prompts and tool calls."""
    for message in messages_of(example):
        if message["role"] != "system" and message["content"]:
            yield message["content"]


def dialogue_of(example: dict[str, Any]) -> str:
    """Return all but system prompts and tool definitions, which many examples share."""
    calls = (
        _written(call["function"])
        for message in messages_of(example)
        for call in message.get("tool_calls") or ()
    )
    return "\n".join([*said_in(example), *calls])


def _written(function: dict[str, Any]) -> str:
    """Return a tool call as one text, which does not depend on the order of its arguments."""
    arguments = json.dumps(function["arguments"], sort_keys=True, ensure_ascii=False)
    return f"{function['name']} {arguments}"


def last_answer(example: dict[str, Any]) -> str | None:
    """Return the text of the last, or preferred, answer; None if it only calls tools."""
    for message in reversed(example.get("messages") or example[PREFERRED]):
        if message["role"] == "assistant":
            return None if message.get("tool_calls") else message["content"]
    return None


def texts_of(example: dict[str, Any]) -> Iterator[str]:
    """Yield contents, names and call arguments, but no tool definitions, which developers write."""
    for message in messages_of(example):
        yield message["content"]
        if "name" in message:
            yield message["name"]
        for call in message.get("tool_calls") or ():
            yield from _strings(call["function"]["arguments"])


def with_texts(example: dict[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    """Return an example with `change` applied to the texts that `texts_of` yields."""
    if "messages" in example:
        return example | {"messages": _all_changed(example["messages"], change)}
    prompt = example[INPUT] | {"messages": _all_changed(prompt_of(example), change)}
    return {INPUT: prompt} | {key: _all_changed(example[key], change) for key in ANSWERS}


def _all_changed(
    messages: list[dict[str, Any]], change: Callable[[str], str]
) -> list[dict[str, Any]]:
    return [_changed(message, change) for message in messages]


def _changed(message: dict[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    changed = message | {"content": change(message["content"])}
    if "name" in message:
        changed["name"] = change(message["name"])
    if calls := message.get("tool_calls"):
        changed["tool_calls"] = [_changed_call(call, change) for call in calls]
    return changed


def _changed_call(call: dict[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    function = call["function"]
    arguments = _with_strings(function["arguments"], change)
    return call | {"function": function | {"arguments": arguments}}


def _strings(value: Any) -> Iterator[str]:
    """Yield all strings in a JSON value, without keys."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _strings(each)


def _with_strings(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_with_strings(each, change) for each in value]
    if isinstance(value, dict):
        return {key: _with_strings(each, change) for key, each in value.items()}
    return value
