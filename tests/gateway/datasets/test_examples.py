"""Examples on the dataset page: trained, context and truncated tokens."""

from __future__ import annotations

import re
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any
from uuid import UUID

from domain.catalog.base_model import BaseModel
from gateway.datasets.example_rendering import CHARACTERS_SHOWN
from infrastructure.chat_labels import IGNORED
from services.trainer.examples import Renderer
from tests.builders.platform import Platform
from tests.builders.tiny_model import CHAT_TEMPLATE, make_tiny_tokenizer
from tests.gateway.datasets.dataset_page import (
    ASSISTANT,
    CHAT,
    CONTEXT,
    USER,
    count,
    import_base,
    learnt,
    opened,
    settle,
)
from tests.gateway.web.signed_in import Browser


def test_highlighted_text_is_what_the_trainer_learns(
    browser: Browser, upload: Callable[..., UUID], platform: Platform, base: BaseModel
) -> None:
    long = {**ASSISTANT, "content": "word é " * 40}
    chats = [
        CHAT,
        {"messages": [USER, {**ASSISTANT, "weight": 0}, USER, ASSISTANT]},
        {"messages": [USER, ASSISTANT, USER, long]},
    ]
    dataset_id = upload(*chats)
    settle(browser)
    html = opened(browser, f"/datasets/{dataset_id}/examples?base_model={base.name}", part=True)
    tokenizer = make_tiny_tokenizer()
    renderer = Renderer(tokenizer, CONTEXT)
    expected, counts = [], []
    for chat in chats:
        (example,) = renderer.render(chat)
        kept = example.truncated(CONTEXT)
        labels = [label for label in kept.labels if label != IGNORED]
        expected.append(tokenizer.decode(labels))
        counts.append(f'data-tokens="{len(example.input_ids)}" data-learnt="{kept.label_tokens}"')
    assert "".join(learnt(html)) == "".join(expected)
    for each in counts:
        assert each in html
    assert 'class="over"' in html
    assert re.findall(r'class="turn is-(\w+)"', html)[:3] == ["system", "user", "assistant"]
    whole = "".join(unescape(re.sub(r"<[^>]+>", "", turn)) for turn in _turns(html))
    texts = [tokenizer.apply_chat_template(_without_weight(chat), tokenize=False) for chat in chats]
    assert whole == "".join(map(str, texts))


def _turns(html: str) -> list[str]:
    return re.findall(r"<pre>\n(.*?)</pre>", html, flags=re.DOTALL)


def _without_weight(chat: dict[str, Any]) -> list[dict[str, Any]]:
    return [{k: v for k, v in each.items() if k != "weight"} for each in chat["messages"]]


def test_an_example_without_tokens_to_train_on_is_marked(
    browser: Browser, upload: Callable[..., UUID], platform: Platform, base: BaseModel
) -> None:
    dataset_id = upload({"messages": [{**USER, "content": "long " * 80}, ASSISTANT]})
    settle(browser)
    assert 'data-learnt="0"' in opened(browser, f"/datasets/{dataset_id}/examples")


def test_a_template_that_rewrites_history_splits_the_conversation(
    browser: Browser, upload: Callable[..., UUID], platform: Platform, tmp_path: Path
) -> None:
    rewriting = CHAT_TEMPLATE.replace(
        "{{ message.content }}",
        "{{ message.content if loop.last or message.role != 'assistant' else 'gone' }}",
    )
    import_base(platform, tmp_path / "rewriting", rewriting, context=500)
    dataset_id = upload({"messages": [USER, ASSISTANT, USER, ASSISTANT]})
    settle(browser)
    html = opened(browser, f"/datasets/{dataset_id}/examples")
    assert "data-split" in html
    assert learnt(html) == [f"{ASSISTANT['content']}<|im_end|>"] * 2


def test_a_template_that_refuses_an_example_shows_the_reason(
    browser: Browser, upload: Callable[..., UUID], platform: Platform, tmp_path: Path
) -> None:
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    import_base(platform, tmp_path / "refusing", refusing + CHAT_TEMPLATE)
    dataset_id = upload(CHAT, {"messages": [USER, ASSISTANT]})
    settle(browser)
    html = opened(browser, f"/datasets/{dataset_id}/examples")
    assert html.count("data-refused") == 1
    assert "no system" in html
    assert 'id="example-2"' in html


def test_examples_have_pages_and_a_choice_of_base_model(
    browser: Browser,
    upload: Callable[..., UUID],
    platform: Platform,
    base: BaseModel,
    tmp_path: Path,
) -> None:
    import_base(platform, tmp_path / "other", "{{ 'Chat: ' }}" + CHAT_TEMPLATE, "other")
    asked = [{"messages": [{**USER, "content": f"Number {n}?"}, ASSISTANT]} for n in range(12)]
    dataset_id = upload(*asked)
    count(platform, dataset_id, base, *[30] * 12)
    settle(browser)
    path = f"/datasets/{dataset_id}/examples"
    first = opened(browser, path)
    assert 'data-first="1" data-last="5"' in first
    assert "Number 4?" in first
    assert "Number 5?" not in first
    assert 'id="previous-examples" class="secondary small" aria-disabled="true"' in first
    last = opened(browser, f"{path}?first=11&base_model=other")
    assert 'data-first="11" data-last="12"' in last
    assert "Chat: &lt;|im_start|&gt;user" in last
    assert "Number 11?" in last
    assert "histogram" not in last
    assert 'id="next-examples" class="secondary small" aria-disabled="true"' in last
    assert 'data-median="30" data-beyond="0"' in first
    assert 'data-first="12"' in opened(browser, f"{path}?first=99999")
    assert browser.client.get(f"{path}?first=0").status_code == 422


def test_a_very_long_example_is_shown_in_part(
    browser: Browser, upload: Callable[..., UUID], platform: Platform, base: BaseModel
) -> None:
    dataset_id = upload({"messages": [USER, {**ASSISTANT, "content": "x" * 3 * CHARACTERS_SHOWN}]})
    settle(browser)
    html = opened(browser, f"/datasets/{dataset_id}/examples")
    assert "data-characters-left-out" in html
    assert len(html) < 2 * CHARACTERS_SHOWN


def test_truncated_examples_are_counted(
    browser: Browser, upload: Callable[..., UUID], platform: Platform, base: BaseModel
) -> None:
    dataset_id = upload(CHAT, {"messages": [USER, ASSISTANT]})
    count(platform, dataset_id, base, 40, CONTEXT + 30)
    settle(browser)
    html = opened(browser, f"/datasets/{dataset_id}/examples")
    assert 'data-beyond="1"' in html
    assert html.count('class="beyond"') == 1


def test_a_dataset_that_is_not_ready_has_no_examples(
    browser: Browser, upload: Callable[..., UUID], base: BaseModel
) -> None:
    dataset_id = upload(CHAT, validated=False)
    settle(browser)
    answer = browser.client.get(f"/datasets/{dataset_id}/examples")
    assert (base.name, answer.status_code) == ("tiny", 409)
