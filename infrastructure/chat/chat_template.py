"""Preparation of chat messages for templates, which training and serving share."""

from __future__ import annotations

import json
from typing import Any

CHAT_TEMPLATE = "chat_template.jinja"
"""File next to an adapter that contains the template, if the base model has none."""

# ChatML. Most base models without a template have no special tokens for its markers. They tokenize
# the markers as text, which trains equally well. Tool calls are JSON between <tool_call> tags,
# because such messages have no other content to train on.
FALLBACK_CHAT_TEMPLATE = """\
{%- for message in messages %}
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] }}
{%- for call in message['tool_calls'] or [] %}
{{- '<tool_call>' + (call['function'] | tojson) + '</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""

TOOLS_PROMPT = """\
You may call one or more of the following functions to answer the user. Their signatures are \
within <tools></tools> tags:
<tools>
{tools}
</tools>

To call a function, write a JSON object with its name and arguments within <tool_call></tool_call> \
tags:
<tool_call>
{{"name": <name of the function>, "arguments": <object with the arguments>}}
</tool_call>"""
"""System message that defines tools in the Hermes format, for templates without tools."""


def with_tools_as_text(
    messages: list[dict[str, Any]], tools: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return the messages with tool definitions at the end of the system message."""
    signatures = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    text = TOOLS_PROMPT.format(tools=signatures)
    if messages and messages[0]["role"] == "system":
        system, *rest = messages
        return [{**system, "content": f"{system['content']}\n\n{text}"}, *rest]
    return [{"role": "system", "content": text}, *messages]


def plain_message(message: dict[str, Any], calls_tools: bool) -> dict[str, Any]:
    """Return a message as templates expect it: with text content and parsed tool arguments.

    If `calls_tools` is false, the template does not support tool calls. They then become text in
    the Hermes format.
    """
    plain = {key: value for key, value in message.items() if key != "weight" and value is not None}
    plain["content"] = message.get("content") or ""
    calls = [_with_object_arguments(call) for call in plain.pop("tool_calls", ())]
    if calls and calls_tools:
        plain["tool_calls"] = calls
    elif calls:
        written = [
            f"<tool_call>\n{json.dumps(call['function'], ensure_ascii=False)}\n</tool_call>"
            for call in calls
        ]
        plain["content"] = "\n".join(filter(None, [plain["content"], *written]))
    return plain


def _with_object_arguments(call: dict[str, Any]) -> dict[str, Any]:
    """Return a tool call with parsed `arguments`, which OpenAI's format has as a JSON string."""
    function = dict(call["function"])
    if isinstance(function.get("arguments"), str):
        try:
            function["arguments"] = json.loads(function["arguments"])
        except json.JSONDecodeError:
            return {**call, "function": function}
    return {**call, "function": function}
