"""Tokens and labels of conversations with tools."""

from __future__ import annotations

import json
from typing import Any

import pytest

from infrastructure.chat.chat_labels import IGNORED, Example
from services.datasets.examples import read_example
from services.trainer.examples import Renderer
from tests.builders.tiny_model import CHAT_TEMPLATE, make_tiny_tokenizer
from tests.builders.tool_templates import CHAT, CLOCK, TEMPLATES, WEATHER, call

SYSTEM = {"role": "system", "content": "Be brief."}
QUESTION, CALLING, RESULT, ANSWER = CHAT["messages"]
CHATS: dict[str, dict[str, Any]] = {
    "a call and its answer": CHAT,
    "a system message": CHAT | {"messages": [SYSTEM, *CHAT["messages"]]},
    "a call at the end": CHAT | {"messages": [QUESTION, CALLING]},
    "no call": CHAT | {"messages": [QUESTION, ANSWER]},
    "no tools": {"messages": [QUESTION, ANSWER]},
    "two rounds": CHAT
    | {
        "messages": [
            QUESTION,
            CALLING,
            RESULT,
            {**CALLING, "tool_calls": [call("clock", "123456789")]},
            {**RESULT, "tool_call_id": "123456789", "content": "noon"},
            ANSWER,
        ]
    },
}


def normalized(chat: dict[str, Any]) -> dict[str, Any]:
    return read_example(json.dumps(chat), [])


def trained(example: Example) -> list[int]:
    return [label for label in example.labels if label != IGNORED]


@pytest.mark.parametrize("chat", CHATS.values(), ids=list(CHATS))
@pytest.mark.parametrize("template", TEMPLATES.values(), ids=list(TEMPLATES))
def test_tokens_and_labels_equal_those_of_the_tokenizer(
    template: str, chat: dict[str, Any]
) -> None:
    tokenizer = make_tiny_tokenizer(template)
    conversation = normalized(chat)
    expected = tokenizer.apply_chat_template(
        conversation["messages"],
        tools=conversation.get("tools"),
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    (example,) = Renderer(tokenizer, 10_000).render(conversation)
    assert list(example.input_ids) == expected["input_ids"]
    mask = expected["assistant_masks"]
    assert any(mask)
    assert [label != IGNORED for label in example.labels] == [flag == 1 for flag in mask]


def test_a_template_without_tools_gets_them_in_the_system_message() -> None:
    tokenizer = make_tiny_tokenizer(CHAT_TEMPLATE)
    renderer = Renderer(tokenizer, 10_000)
    for messages in (CHAT["messages"], [SYSTEM, *CHAT["messages"]]):
        (example,) = renderer.render(normalized(CHAT | {"messages": messages}))
        text = tokenizer.decode(example.input_ids)
        system, _, rest = text.partition("<|im_end|>")
        assert json.dumps(WEATHER) in system
        assert json.dumps(CLOCK) in system
        assert ("Be brief." in system) == (messages[0] is SYSTEM)
        assert rest.startswith("\n<|im_start|>user\nIs it raining")
        answers = tokenizer.decode(trained(example))
        assert answers.startswith('<tool_call>\n{"name": "get_weather"')
        assert answers.endswith("Yes, take an umbrella.<|im_end|>")


def test_the_prompt_for_a_sample_contains_the_tools() -> None:
    for template in (*TEMPLATES.values(), CHAT_TEMPLATE, None):
        renderer = Renderer(make_tiny_tokenizer(template), 10_000)
        messages, prompt = renderer.prompt(normalized(CHAT))
        assert [message["role"] for message in messages] == ["user", "assistant", "tool"]
        assert "Return the weather of a city." in prompt
        assert "umbrella" not in prompt
