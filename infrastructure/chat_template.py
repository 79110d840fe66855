"""The chat template of a base model that brings none, the same wherever chats become text."""

from __future__ import annotations

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
