"""Chat messages for templates, the same in training and in serving."""

from __future__ import annotations

import json
from typing import Any

CHAT_TEMPLATE = "chat_template.jinja"
"""File beside an adapter with its template, if its base has none."""

# ChatML. Most bases without a template have no single tokens for its marks. They spell them out,
# which trains as well. Tool calls are JSON between <tool_call> tags: their messages have no other
# content to learn.
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


def plain_message(message: dict[str, Any], calls_tools: bool) -> dict[str, Any]:
    """A message with string content and tool arguments as objects, which templates expect.

    If the template does not support tools, tool calls become text in the Hermes format.
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
    """Parse the `arguments`, which are a JSON string in OpenAI's format."""
    function = dict(call["function"])
    if isinstance(function.get("arguments"), str):
        try:
            function["arguments"] = json.loads(function["arguments"])
        except json.JSONDecodeError:
            return {**call, "function": function}
    return {**call, "function": function}
