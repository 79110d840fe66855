"""Tokens and labels of rendered conversations."""

from __future__ import annotations

import json
from datetime import date
from typing import Any

import pytest

from infrastructure.chat.chat_labels import IGNORED, Example
from infrastructure.chat.chat_template import FALLBACK_CHAT_TEMPLATE
from services.trainer.examples import Renderer
from tests.builders.tiny_model import CHAT_TEMPLATE, make_tiny_tokenizer

SYSTEM = {"role": "system", "content": "Be brief."}
USER = {"role": "user", "content": "Hello"}
PARIS = {"role": "assistant", "content": "Paris."}
ROME = {"role": "assistant", "content": "Rome é."}
LONG = {"role": "assistant", "content": "word " * 90}
CLOCK = {"name": "clock", "arguments": {"city": "Rome"}}
CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [
        {
            "id": "1",
            "type": "function",
            "function": {"name": "clock", "arguments": json.dumps(CLOCK["arguments"])},
        }
    ],
}
RESULT = {"role": "tool", "tool_call_id": "1", "content": "noon"}
TOOL_CHAT = [USER, CALL, RESULT, PARIS]

ENDED = "<|im_end|>"
CONTENT = "{{ message.content }}"
REFUSING = "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}"
WITH_TOOLS = CHAT_TEMPLATE.replace(
    "<|im_end|>\n",
    "{% for call in message.tool_calls or [] %}"
    "[{{ call.function.name }}:{{ call.function.arguments.city }}]{% endfor %}<|im_end|>\n",
)
WITH_MARKS = CHAT_TEMPLATE.replace(
    CONTENT,
    "{% if message.role == 'assistant' %}{% generation %}{{ message.content }}"
    "{% endgeneration %}{% else %}{{ message.content }}{% endif %}",
)


@pytest.fixture(scope="module")
def tokenizer():
    return make_tiny_tokenizer()


def renderer(template: str | None = CHAT_TEMPLATE, limit: int = 1000) -> Renderer:
    return Renderer(make_tiny_tokenizer(template), limit)


def labels(tokenizer, example: Example) -> str:
    return tokenizer.decode([label for label in example.labels if label != IGNORED])


@pytest.mark.parametrize(
    ("template", "messages", "expected"),
    [
        pytest.param(CHAT_TEMPLATE, [USER, PARIS, USER, ROME], ["Paris.", "Rome é."], id="answers"),
        pytest.param(
            CHAT_TEMPLATE,
            [USER, {**PARIS, "weight": 0}, USER, {**ROME, "weight": 1}],
            ["Rome é."],
            id="weight of zero",
        ),
        pytest.param(
            CHAT_TEMPLATE.partition("{% if add_generation_prompt")[0],
            [USER, PARIS],
            ["Paris."],
            id="no generation prompt",
        ),
        pytest.param(
            CHAT_TEMPLATE.replace("assistant\n{% endif", "assistant\n<think>\n{% endif"),
            [USER, PARIS],
            ["Paris."],
            id="prompt opens a thought",
        ),
        pytest.param(
            "{% if not messages %}{{ raise_exception('empty') }}{% endif %}" + CHAT_TEMPLATE,
            [PARIS],
            ["Paris."],
            id="empty chats are refused",
        ),
        pytest.param(WITH_MARKS, [USER, PARIS], ["Paris."], id="generation marks"),
        pytest.param(WITH_TOOLS, TOOL_CHAT, ["[clock:Rome]", "Paris."], id="tools"),
        pytest.param(
            CHAT_TEMPLATE,
            TOOL_CHAT,
            [f"<tool_call>\n{json.dumps(CLOCK)}\n</tool_call>", "Paris."],
            id="no tools in the template",
        ),
        pytest.param(None, [USER, PARIS], ["Paris."], id="fallback"),
    ],
)
def test_labels_cover_the_assistants_answers_and_their_end(
    tokenizer, template: str | None, messages: list[dict[str, Any]], expected: list[str]
) -> None:
    (example,) = renderer(template).render({"messages": messages})
    assert labels(tokenizer, example) == "".join(answer + ENDED for answer in expected)
    pairs = zip(example.labels, example.input_ids, strict=True)
    assert all(label in (IGNORED, token) for label, token in pairs)


def test_tokens_are_those_of_the_template(tokenizer) -> None:
    (example,) = renderer().render({"messages": [USER, PARIS, USER, ROME]})
    text = tokenizer.apply_chat_template([USER, PARIS, USER, ROME], tokenize=False)
    assert tokenizer.decode(example.input_ids) == text
    (example,) = renderer(WITH_TOOLS).render({"messages": TOOL_CHAT})
    assert "tool\nnoon" in tokenizer.decode(example.input_ids)


def test_a_base_without_a_template_gets_the_fallback() -> None:
    plain = renderer(None)
    assert plain.uses_fallback
    assert plain.template.source == FALLBACK_CHAT_TEMPLATE


def test_a_template_writes_the_date_of_the_approval(tokenizer) -> None:
    """Otherwise a job resumed tomorrow would train on other tokens."""
    template = "{{ strftime_now('%d %b %Y, %H:%M') }} " + CHAT_TEMPLATE
    dated = Renderer(make_tiny_tokenizer(template), 1000, date(2026, 1, 9))
    (example,) = dated.render({"messages": [USER, PARIS]})
    assert tokenizer.decode(example.input_ids).startswith("09 Jan 2026, 00:00 <|im_start|>")


def test_many_conversations_keep_their_order_and_their_rows() -> None:
    refused = {"messages": [SYSTEM, USER, PARIS]}
    rows = [
        refused if row % 7 == 3 else {"messages": [{**USER, "content": f"{row}?"}, PARIS]}
        for row in range(150)
    ]
    each = renderer(REFUSING + CHAT_TEMPLATE)
    rendered = each.render_all(rows, lambda: None)
    assert rendered.rows == [row for row in range(150) if row % 7 != 3]
    assert rendered.conversations == [each.render(rows[row]) for row in rendered.rows]


def test_rendering_counts_what_it_truncates_and_drops() -> None:
    chats = [
        [USER, PARIS],
        [USER, {**PARIS, "weight": 0}],
        [{**USER, "content": "long " * 90}, PARIS],
        [USER, LONG],
        [SYSTEM, USER, PARIS],
    ]
    rows = [{"messages": messages} for messages in chats]
    rendered = renderer(REFUSING + CHAT_TEMPLATE, limit=60).render_all(rows, lambda: None)
    assert len(rendered.conversations) == 2
    assert (rendered.truncated, rendered.without_labels, rendered.unrenderable) == (2, 2, 1)
    assert max(len(e.input_ids) for (e,) in rendered.conversations) == 60


def test_the_first_token_is_never_predicted() -> None:
    assert Example((1, 2), (1, IGNORED)).label_tokens == 0


def test_an_example_takes_four_bytes_a_token() -> None:
    rendered = renderer(limit=60).render_all([{"messages": [USER, LONG]}], lambda: None)
    ((example,),) = rendered.conversations
    for numbers in (example.input_ids, example.labels):
        assert memoryview(numbers).nbytes == 4 * len(numbers)  # type: ignore[arg-type]
