"""How chats become text, the same for what is trained and for what is answered."""

from __future__ import annotations

import json
from typing import Any

CHAT_TEMPLATE = "chat_template.jinja"
"""File beside an adapter with the template that it was trained with, if its base has none."""

# ChatML. A base without a template has usually never seen these marks as single tokens; they are
# then spelled out, which trains as well. Tool calls are written as JSON between <tool_call> tags,
# because their messages have empty content and would otherwise leave nothing to learn.
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
    """A message as templates expect it: text content, tool arguments as objects.

    Tool calls that the template would drop are written out, as the Hermes format does.
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
    """OpenAI's `arguments` are JSON in a string; chat templates want the object."""
    function = dict(call["function"])
    if isinstance(function.get("arguments"), str):
        try:
            function["arguments"] = json.loads(function["arguments"])
        except json.JSONDecodeError:
            return {**call, "function": function}
    return {**call, "function": function}
