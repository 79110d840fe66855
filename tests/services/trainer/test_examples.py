"""Tokens and labels of rendered conversations."""

from __future__ import annotations

import json
from datetime import date

import pytest

from infrastructure.chat_labels import IGNORED, Example
from infrastructure.chat_template import FALLBACK_CHAT_TEMPLATE
from services.trainer.examples import Renderer
from tests.builders.tiny_model import CHAT_TEMPLATE, make_tiny_tokenizer

USER = {"role": "user", "content": "Hello"}
PARIS = {"role": "assistant", "content": "Paris."}
ROME = {"role": "assistant", "content": "Rome é."}
ENDED = "<|im_end|>"


@pytest.fixture(scope="module")
def tokenizer():
    return make_tiny_tokenizer()


def renderer(template: str | None = CHAT_TEMPLATE, limit: int = 1000) -> Renderer:
    return Renderer(make_tiny_tokenizer(template), limit)


def learned(tokenizer, example: Example) -> str:
    return tokenizer.decode([label for label in example.labels if label != IGNORED])


def test_labels_cover_the_assistants_answers_and_their_end(tokenizer) -> None:
    (example,) = renderer().render({"messages": [USER, PARIS, USER, ROME]})
    assert learned(tokenizer, example) == f"Paris.{ENDED}Rome é.{ENDED}"
    text = tokenizer.apply_chat_template([USER, PARIS, USER, ROME], tokenize=False)
    assert tokenizer.decode(example.input_ids) == text
    labelled = [i for i, label in enumerate(example.labels) if label != IGNORED]
    assert all(example.labels[i] == example.input_ids[i] for i in labelled)


def test_a_weight_of_zero_leaves_a_message_out(tokenizer) -> None:
    messages = [USER, {**PARIS, "weight": 0}, USER, {**ROME, "weight": 1}]
    (example,) = renderer().render({"messages": messages})
    assert learned(tokenizer, example) == f"Rome é.{ENDED}"


def test_a_template_that_ignores_the_generation_prompt_teaches_no_header(tokenizer) -> None:
    template = CHAT_TEMPLATE.partition("{% if add_generation_prompt")[0]
    (example,) = renderer(template).render({"messages": [USER, PARIS]})
    assert learned(tokenizer, example) == f"Paris.{ENDED}"


def test_a_template_whose_prompt_opens_a_thought_teaches_the_answer(tokenizer) -> None:
    template = CHAT_TEMPLATE.replace("assistant\n{% endif", "assistant\n<think>\n{% endif")
    (example,) = renderer(template).render({"messages": [USER, PARIS]})
    assert learned(tokenizer, example) == f"Paris.{ENDED}"


def test_a_template_that_rewrites_history_gives_one_example_per_answer(tokenizer) -> None:
    template = CHAT_TEMPLATE.replace(
        "{{ message.content }}",
        "{{ message.content if loop.last or message.role != 'assistant' else 'gone' }}",
    )
    examples = renderer(template).render({"messages": [USER, PARIS, USER, ROME]})
    assert [learned(tokenizer, example) for example in examples] == [
        f"Paris.{ENDED}",
        f"Rome é.{ENDED}",
    ]
    assert "gone" in tokenizer.decode(examples[1].input_ids)


def test_a_template_that_refuses_an_empty_beginning_still_finds_the_answer(tokenizer) -> None:
    template = "{% if not messages %}{{ raise_exception('empty') }}{% endif %}" + CHAT_TEMPLATE
    (example,) = renderer(template).render({"messages": [PARIS]})
    assert learned(tokenizer, example) == f"Paris.{ENDED}"


def test_generation_marks_are_ignored(tokenizer) -> None:
    template = CHAT_TEMPLATE.replace(
        "{{ message.content }}",
        "{% if message.role == 'assistant' %}{% generation %}{{ message.content }}"
        "{% endgeneration %}{% else %}{{ message.content }}{% endif %}",
    )
    (example,) = renderer(template).render({"messages": [USER, PARIS]})
    assert learned(tokenizer, example) == f"Paris.{ENDED}"


CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [
        {
            "id": "1",
            "type": "function",
            "function": {"name": "clock", "arguments": '{"city": "Rome"}'},
        }
    ],
}
ANSWER = {"role": "tool", "tool_call_id": "1", "content": "noon"}


def test_tool_calls_go_through_a_template_that_knows_them(tokenizer) -> None:
    template = CHAT_TEMPLATE.replace(
        "<|im_end|>\n",
        "{% for call in message.tool_calls or [] %}"
        "[{{ call.function.name }}:{{ call.function.arguments.city }}]{% endfor %}<|im_end|>\n",
    )
    (example,) = renderer(template).render({"messages": [USER, CALL, ANSWER, PARIS]})
    assert learned(tokenizer, example) == f"[clock:Rome]{ENDED}Paris.{ENDED}"
    assert "tool\nnoon" in tokenizer.decode(example.input_ids)


def test_tool_calls_are_written_out_for_a_template_that_does_not(tokenizer) -> None:
    (example,) = renderer().render({"messages": [USER, CALL, ANSWER, PARIS]})
    call = json.dumps({"name": "clock", "arguments": {"city": "Rome"}})
    assert learned(tokenizer, example) == f"<tool_call>\n{call}\n</tool_call>{ENDED}Paris.{ENDED}"


def test_a_base_without_a_template_gets_the_fallback(tokenizer) -> None:
    plain = renderer(None)
    assert plain.uses_fallback
    assert plain.template.source == FALLBACK_CHAT_TEMPLATE
    (example,) = plain.render({"messages": [USER, PARIS]})
    assert learned(tokenizer, example) == f"Paris.{ENDED}"


def test_a_template_writes_the_date_of_the_approval(tokenizer) -> None:
    """Else a job resumed tomorrow would train on other tokens."""
    template = "{{ strftime_now('%d %b %Y, %H:%M') }} " + CHAT_TEMPLATE
    dated = Renderer(make_tiny_tokenizer(template), 1000, date(2026, 1, 9))
    (example,) = dated.render({"messages": [USER, PARIS]})
    assert tokenizer.decode(example.input_ids).startswith("09 Jan 2026, 00:00 <|im_start|>")


def test_many_conversations_keep_their_order_and_their_rows() -> None:
    refused = {"messages": [{"role": "system", "content": "Be brief."}, USER, PARIS]}
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}"
    rows = [
        refused if row % 7 == 3 else {"messages": [{**USER, "content": f"{row}?"}, PARIS]}
        for row in range(150)
    ]
    each = renderer(refusing + CHAT_TEMPLATE)
    rendered = each.render_all(rows, lambda: None)
    assert rendered.rows == [row for row in range(150) if row % 7 != 3]
    assert rendered.conversations == [each.render(rows[row]) for row in rendered.rows]


def test_rendering_counts_what_it_truncates_and_drops() -> None:
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}"
    rows = [
        {"messages": [USER, PARIS]},
        {"messages": [USER, {**PARIS, "weight": 0}]},
        {"messages": [{**USER, "content": "long " * 90}, PARIS]},
        {"messages": [USER, {**PARIS, "content": "word " * 90}]},
        {"messages": [{"role": "system", "content": "Be brief."}, USER, PARIS]},
    ]
    rendered = renderer(refusing + CHAT_TEMPLATE, limit=60).render_all(rows, lambda: None)
    assert len(rendered.conversations) == 2
    assert (rendered.truncated, rendered.without_labels, rendered.unrenderable) == (2, 2, 1)
    assert max(len(e.input_ids) for (e,) in rendered.conversations) == 60


def test_the_first_token_is_never_predicted() -> None:
    assert Example((1, 2), (1, IGNORED)).label_tokens == 0


def test_an_example_takes_four_bytes_a_token() -> None:
    rendered = renderer(limit=60).render_all(
        [{"messages": [USER, {**PARIS, "content": "word " * 90}]}], lambda: None
    )
    ((example,),) = rendered.conversations
    for numbers in (example.input_ids, example.labels):
        assert memoryview(numbers).nbytes == 4 * len(numbers)  # type: ignore[arg-type]
