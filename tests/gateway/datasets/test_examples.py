"""Examples on the dataset page: trained, context and truncated tokens."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

import pytest

from domain.catalog.base_model import BaseModel
from gateway.datasets.example_rendering import CHARACTERS_SHOWN
from infrastructure.chat.chat_labels import IGNORED
from services.trainer.examples import Renderer
from tests.builders.platform import Platform
from tests.builders.tiny_model import CHAT_TEMPLATE, make_tiny_tokenizer
from tests.builders.tool_templates import CHAT as TOOL_CHAT
from tests.builders.tool_templates import TAGGED
from tests.gateway.datasets.conftest import ASSISTANT, CHAT, CONTEXT, SHORT, USER, Pages


def learnt(html: str) -> list[str]:
    """Return the highlighted texts of the examples, without the legend."""
    marks = re.findall(r'<mark class="learnt">(.*?)</mark>', html, flags=re.DOTALL)
    return [unescape(mark) for mark in marks[1:]]


def without_weight(chat: dict[str, Any]) -> list[dict[str, Any]]:
    return [{k: v for k, v in each.items() if k != "weight"} for each in chat["messages"]]


def test_highlighted_text_is_what_the_trainer_learns(pages: Pages, base: BaseModel) -> None:
    long = {**ASSISTANT, "content": "word é " * 40}
    chats = [
        CHAT,
        {"messages": [USER, {**ASSISTANT, "weight": 0}, USER, ASSISTANT]},
        {"messages": [USER, ASSISTANT, USER, long]},
    ]
    html = pages.examples(pages.upload(*chats), f"?base_model={base.name}")
    tokenizer = make_tiny_tokenizer()
    renderer = Renderer(tokenizer, CONTEXT)
    expected = []
    for chat in chats:
        (example,) = renderer.render(chat)
        kept = example.truncated(CONTEXT)
        expected.append(tokenizer.decode([each for each in kept.labels if each != IGNORED]))
        counts = f'data-tokens="{len(example.input_ids)}" data-learnt="{kept.label_tokens}"'
        assert counts in html
    assert "".join(learnt(html)) == "".join(expected)
    assert 'class="over"' in html
    assert re.findall(r'class="turn is-(\w+)"', html)[:3] == ["system", "user", "assistant"]
    turns = re.findall(r"<pre>\n(.*?)</pre>", html, flags=re.DOTALL)
    whole = "".join(unescape(re.sub(r"<[^>]+>", "", turn)) for turn in turns)
    texts = [tokenizer.apply_chat_template(without_weight(chat), tokenize=False) for chat in chats]
    assert whole == "".join(map(str, texts))


@pytest.mark.full
@pytest.mark.parametrize("template", [TAGGED, CHAT_TEMPLATE], ids=["tools", "no tools"])
def test_tools_are_shown_as_the_model_sees_them(
    pages: Pages, platform: Platform, template: str
) -> None:
    platform.store_base(template=template, context=1000)
    html = pages.examples(pages.upload(TOOL_CHAT))
    text = unescape(re.sub(r"<[^>]+>", "", html))
    assert "Return the weather of a city." in text
    assert text.index("Return the weather of a city.") < text.index("Is it raining")
    assert "<tool_call>" in learnt(html)[0]
    assert "umbrella" in learnt(html)[-1]
    roles = re.findall(r'class="turn is-(\w+)"', html)
    assert roles[-4:] == ["user", "assistant", "tool", "assistant"]


def test_an_example_without_tokens_to_train_on_is_marked(pages: Pages, base: BaseModel) -> None:
    dataset_id = pages.upload({"messages": [{**USER, "content": "long " * 80}, ASSISTANT]})
    assert 'data-learnt="0"' in pages.examples(dataset_id)


def test_a_template_that_rewrites_history_splits_the_conversation(
    pages: Pages, platform: Platform
) -> None:
    content = "{{ message.content if loop.last or message.role != 'assistant' else 'gone' }}"
    rewriting = CHAT_TEMPLATE.replace("{{ message.content }}", content)
    platform.store_base(template=rewriting, context=500)
    html = pages.examples(pages.upload({"messages": [USER, ASSISTANT, USER, ASSISTANT]}))
    assert "data-split" in html
    assert learnt(html) == [f"{ASSISTANT['content']}<|im_end|>"] * 2


@pytest.mark.full
@pytest.mark.parametrize("chat", [CHAT, SHORT], ids=["own system message", "none"])
def test_a_system_message_that_the_template_adds_is_not_the_users(
    pages: Pages, platform: Platform, chat: dict[str, Any]
) -> None:
    added = (
        "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are kind.<|im_end|>\n"
        "{% endif %}"
    )
    platform.store_base(template=added + CHAT_TEMPLATE)
    html = pages.examples(pages.upload(chat))
    assert re.findall(r'class="turn is-(\w+)"', html) == ["system", "user", "assistant"]


def test_a_template_that_refuses_an_example_shows_the_reason(
    pages: Pages, platform: Platform
) -> None:
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    platform.store_base(template=refusing + CHAT_TEMPLATE)
    html = pages.examples(pages.upload(CHAT, SHORT))
    assert html.count("data-refused") == 1
    assert "no system" in html
    assert 'id="example-2"' in html


def test_examples_have_pages_and_a_choice_of_base_model(
    pages: Pages, platform: Platform, base: BaseModel
) -> None:
    platform.store_base("other", "{{ 'Chat: ' }}" + CHAT_TEMPLATE)
    asked = [{"messages": [{**USER, "content": f"Number {n}?"}, ASSISTANT]} for n in range(12)]
    dataset_id = pages.upload(*asked)
    pages.count(dataset_id, base, *[30] * 12)
    first = pages.examples(dataset_id)
    assert 'data-first="1" data-last="5"' in first
    assert "Number 4?" in first
    assert "Number 5?" not in first
    assert 'id="previous-examples" class="secondary small" aria-disabled="true"' in first
    assert 'data-median="30" data-beyond="0"' in first
    last = pages.examples(dataset_id, "?first=11&base_model=other")
    assert 'data-first="11" data-last="12"' in last
    assert "Chat: &lt;|im_start|&gt;user" in last
    assert "histogram" not in last
    assert 'id="next-examples" class="secondary small" aria-disabled="true"' in last
    assert 'data-first="12"' in pages.examples(dataset_id, "?first=99999")
    path = f"/datasets/{dataset_id}/examples?first=0"
    assert pages.browser.client.get(path).status_code == 422


def test_a_very_long_example_is_shown_in_part(pages: Pages, base: BaseModel) -> None:
    long = {**ASSISTANT, "content": "x" * 3 * CHARACTERS_SHOWN}
    html = pages.examples(pages.upload({"messages": [USER, long]}))
    assert "data-characters-left-out" in html
    assert len(html) < 2 * CHARACTERS_SHOWN


def test_truncated_examples_are_counted(pages: Pages, base: BaseModel) -> None:
    dataset_id = pages.upload(CHAT, SHORT)
    pages.count(dataset_id, base, 40, CONTEXT + 30)
    html = pages.examples(dataset_id)
    assert 'data-beyond="1"' in html
    assert html.count('class="beyond"') == 1


def test_a_dataset_that_is_not_ready_has_no_examples(pages: Pages, base: BaseModel) -> None:
    dataset_id = pages.upload(CHAT, validated=False)
    pages.open()
    answer = pages.browser.client.get(f"/datasets/{dataset_id}/examples")
    assert answer.status_code == 409
