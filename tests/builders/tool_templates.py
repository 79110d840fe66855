"""Chat templates with tools, in the three styles of common base models.

`{% generation %}` marks what the assistant writes, so that the tokenizer's own labels are known.
"""

from __future__ import annotations

import json
from typing import Any

TAGGED = """\
{%- if tools %}{{ '<|im_start|>system\\n' }}
{%- if messages[0].role == 'system' %}{{ messages[0].content + '\\n\\n' }}{% endif %}
{{- '# Tools\\n<tools>' }}
{%- for tool in tools %}{{ '\\n' + (tool | tojson) }}{% endfor %}
{{- '\\n</tools><|im_end|>\\n' }}
{%- elif messages[0].role == 'system' %}
{{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages if message.role != 'system' %}
{%- if message.role == 'tool' %}
{{- '<|im_start|>user\\n<tool_response>\\n' + message.content }}
{{- '\\n</tool_response><|im_end|>\\n' }}
{%- elif message.role == 'assistant' %}
{{- '<|im_start|>assistant\\n' }}
{%- generation %}{{ message.content }}
{%- for call in message.tool_calls or [] %}
{{- '\\n<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' }}
{{- (call.function.arguments | tojson) + '}\\n</tool_call>' }}
{%- endfor %}{{ '<|im_end|>' }}{% endgeneration %}{{ '\\n' }}
{%- else %}{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
"""JSON between tags, beside the text, as in Hermes and Qwen."""

BARE = """\
{%- set system = messages[0].content if messages[0].role == 'system' else '' %}
{{- '<|im_start|>system\\n' + system }}
{%- if tools is not none %}{{ '\\nYou have these functions:\\n' + (tools | tojson(indent=4)) }}
{%- endif %}{{ '<|im_end|>\\n' }}
{%- for message in messages if message.role != 'system' %}
{%- if message.tool_calls %}
{%- if message.tool_calls | length != 1 %}{{ raise_exception('one call at a time') }}{% endif %}
{%- set call = message.tool_calls[0].function %}
{{- '<|im_start|>assistant\\n' }}
{%- generation %}{{ '{"name": "' + call.name + '", "parameters": ' }}
{{- (call.arguments | tojson) + '}<|im_end|>' }}{% endgeneration %}{{ '\\n' }}
{%- elif message.role == 'assistant' %}{{ '<|im_start|>assistant\\n' }}
{%- generation %}{{ message.content + '<|im_end|>' }}{% endgeneration %}{{ '\\n' }}
{%- else %}
{{- '<|im_start|>' + ('ipython' if message.role == 'tool' else message.role) + '\\n' }}
{{- (message.content | tojson if message.role == 'tool' else message.content) + '<|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
"""A JSON object instead of the text, as in Llama 3.1."""

LISTED = """\
{%- set users = messages | selectattr('role', 'equalto', 'user') | list %}
{%- for message in messages %}
{%- if message.role == 'user' %}
{%- if tools and message == users[-1] %}
{{- '[AVAILABLE_TOOLS]' + (tools | tojson) + '[/AVAILABLE_TOOLS]' }}
{%- endif %}{{ '[INST]' + message.content + '[/INST]' }}
{%- elif message.role == 'system' %}{{ '[SYSTEM]' + message.content + '[/SYSTEM]' }}
{%- elif message.role == 'tool' %}
{{- '[TOOL_RESULTS]' + message.content + ' ' + message.tool_call_id + '[/TOOL_RESULTS]' }}
{%- else %}
{%- generation %}
{%- if message.tool_calls %}{{ '[TOOL_CALLS][' }}
{%- for call in message.tool_calls %}
{{- {'name': call.function.name, 'arguments': call.function.arguments, 'id': call.id} | tojson }}
{%- if not loop.last %}{{ ', ' }}{% endif %}
{%- endfor %}{{ ']' }}
{%- else %}{{ message.content }}
{%- endif %}{{ '<|im_end|>' }}{% endgeneration %}
{%- endif %}
{%- endfor %}"""
"""A list after a marker, without a prompt for the answer, as in Mistral's templates."""

SIGNED = """\
{%- macro type_of(spec) -%}
{{- {'string': 'str', 'integer': 'int'}.get(spec.type, 'Any') -}}
{%- endmacro -%}
{{- '<|im_start|>system\\nYou are a function calling AI model.\\n<tools>' }}
{%- for tool in tools or [] %}
{%- set function = tool.function | default(tool) %}
{{- '{"type": "function", "function": ' }}{{- '{"name": ' + function.name + '", ' }}
{{- '"description": "' + function.name + '(' }}
{%- for name, spec in ((function.parameters or {}).properties or {}) | items %}
{{- name + ': ' + type_of(spec) }}{% if not loop.last %}, {% endif %}
{%- endfor %}{{ ')' }}
{%- if function.description %}{{ ' - ' + function.description }}{% endif %}
{{- '", "parameters": ' + (function.parameters | default({}) | tojson) + '}\\n' }}
{%- endfor %}{{ '</tools><|im_end|>\\n' }}
{%- for message in messages %}
{%- if message.role == 'tool' %}
{%- if loop.previtem and loop.previtem.role != 'tool' %}{{ '<|im_start|>tool\\n' }}{% endif %}
{{- '<tool_response>\\n' + message.content + '\\n</tool_response>\\n' }}
{%- if loop.last or loop.nextitem.role != 'tool' %}{{ '<|im_end|>' }}{% endif %}
{%- elif message.tool_calls is defined %}
{{- '<|im_start|>assistant' }}
{%- generation %}
{%- for call in message.tool_calls %}
{{- '\\n<tool_call>\\n{"arguments": ' + (call.function.arguments | tojson) }}
{{- ', "name": "' + call.function.name + '"}\\n</tool_call>' }}
{%- endfor %}{{ '<|im_end|>' }}{% endgeneration %}{{ '\\n' }}
{%- else %}{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
"""Signatures in Python, as in the `tool_use` template of Hermes, which is beside a default one."""

TEMPLATES = {"tagged": TAGGED, "bare": BARE, "listed": LISTED}
STYLES = {"Hermes": SIGNED, "Qwen": TAGGED, "Mistral": LISTED, "Llama": BARE}

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Return the weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city"],
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "clock"}}


def call(name: str, id: str = "abcdefghi", **arguments: Any) -> dict[str, Any]:
    """Return a tool call in OpenAI's format, with its arguments as JSON text."""
    function = {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)}
    return {"id": id, "type": "function", "function": function}


CHAT: dict[str, Any] = {
    "messages": [
        {"role": "user", "content": "Is it raining in Zürich?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [call("get_weather", city="Zürich", days=2)],
        },
        {"role": "tool", "tool_call_id": "abcdefghi", "content": "rain"},
        {"role": "assistant", "content": "Yes, take an umbrella."},
    ],
    "tools": [WEATHER, CLOCK],
}
"""A chat with two tools, one of which the assistant calls."""
