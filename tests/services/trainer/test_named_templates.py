"""A base model with a chat template of its own for tools."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from infrastructure.chat.base_tokenizer import FILES, BaseTokenizer
from services.datasets.examples import read_example
from services.serving.chat import Chat
from services.trainer.examples import Renderer
from tests.builders.tiny_model import CHAT_TEMPLATE, make_tiny_tokenizer
from tests.builders.tool_templates import CHAT, TEMPLATES

SYSTEM = {"role": "system", "content": "Be brief."}
QUESTION, _, _, ANSWER = CHAT["messages"]
CHATS = [
    CHAT,
    CHAT | {"messages": [SYSTEM, *CHAT["messages"]]},
    CHAT | {"messages": [QUESTION, ANSWER]},
    {"messages": [QUESTION, ANSWER]},
]
DEFAULTS = {"calls": TEMPLATES["tagged"], "no calls": f"\n{CHAT_TEMPLATE}\n"}


def tokenizer_of(default: str, tool_use: str) -> Any:
    tokenizer: Any = make_tiny_tokenizer(None)
    tokenizer.chat_template = {"default": default, "tool_use": tool_use}
    return tokenizer


@pytest.mark.parametrize("default", DEFAULTS.values(), ids=DEFAULTS)
@pytest.mark.parametrize("template", TEMPLATES.values(), ids=list(TEMPLATES))
def test_conversations_with_tools_use_the_template_for_tools(
    template: str, default: str, tmp_path: Path
) -> None:
    """The base model has several named templates, also after the import and in the page."""
    spaced = f"\n  {template}\n"
    tokenizer = tokenizer_of(default, spaced)
    tokenizer.save_pretrained(tmp_path)
    paths = {name: tmp_path / name for name in FILES}
    stored = BaseTokenizer(
        {name: path.read_bytes() for name, path in paths.items() if path.exists()}
    )
    for chat in CHATS:
        conversation = read_example(json.dumps(chat), [])
        expected = tokenizer.apply_chat_template(
            conversation["messages"], tools=conversation.get("tools"), tokenize=True
        )
        for renderer in (Renderer(tokenizer, 10_000), stored):
            (example,) = renderer.render(conversation)
            assert list(example.input_ids) == expected["input_ids"]
        messages, prompt = stored.prompt(conversation)
        assert Chat(tokenizer).text(messages, conversation.get("tools")) == prompt


def test_calls_without_definitions_are_rendered_if_the_default_template_ignores_calls() -> None:
    tokenizer = tokenizer_of(CHAT_TEMPLATE, TEMPLATES["tagged"])
    messages = read_example(json.dumps(CHAT), [])["messages"]
    (example,) = Renderer(tokenizer, 10_000).render({"messages": messages})
    labels = [label for label in example.labels if label >= 0]
    assert '<tool_call>\n{"name": "get_weather"' in tokenizer.decode(labels)
