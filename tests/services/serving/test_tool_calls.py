"""Answers that call tools."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

import pytest

from services.serving.chat import Chat
from services.serving.response_text import ResponseText
from services.serving.row import Row
from services.serving.sampler import Sampler
from services.serving.tool_calls import CallFormat
from services.trainer.examples import Renderer
from tests.builders.tiny_model import CHAT_TEMPLATE, make_tiny_tokenizer
from tests.builders.tool_templates import CHAT, CLOCK, TEMPLATES, WEATHER, call

TOOLS = [WEATHER, CLOCK]
ALL = {**TEMPLATES, "no tools": CHAT_TEMPLATE, "fallback": None}
FORMATS = {
    "tagged": CallFormat("<tool_call>", "</tool_call>", "arguments"),
    "bare": CallFormat("", "", "parameters"),
    "listed": CallFormat("[TOOL_CALLS]", "", "arguments"),
    "no tools": CallFormat("<tool_call>", "</tool_call>", "arguments"),
    "fallback": CallFormat("<tool_call>", "</tool_call>", "arguments"),
}
CALLED = [("get_weather", {"city": "Zürich", "days": 2})]


def read(template: str | None, answer: str, size: int) -> tuple[str, list[tuple[str, Any]]]:
    """Return the content and the calls of an answer that arrives in pieces of `size`."""
    reader = Chat(make_tiny_tokenizer(template)).reader(TOOLS)
    assert reader is not None
    pieces = [answer[at : at + size] for at in range(0, len(answer), size)]
    content = "".join(map(reader.add, pieces))
    rest, calls = reader.end()
    assert len({each.id for each in calls}) == len(calls)
    return content + rest, [(each.name, json.loads(each.arguments)) for each in calls]


def answer_of(template: str | None, message: dict[str, Any]) -> str:
    """Return what a model that was trained on a message generates, without special tokens."""
    renderer = Renderer(make_tiny_tokenizer(template), 10_000)
    messages, tools = renderer.plain({"messages": [CHAT["messages"][0], message], "tools": TOOLS})
    text, start = renderer.answer(messages, tools)
    return text[start:].replace("<|im_end|>", "").rstrip()


@pytest.mark.parametrize("name", ALL)
def test_the_format_of_calls_is_that_of_the_template(name: str) -> None:
    tokenizer = make_tiny_tokenizer(ALL[name])
    renderer = Renderer(tokenizer, 10_000)
    form = CallFormat.of(renderer, lambda ids: tokenizer.decode(ids, skip_special_tokens=True))
    assert form == FORMATS[name]


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize("name", ALL)
def test_an_answer_as_in_training_is_read_as_its_calls(name: str, size: int) -> None:
    calling = CHAT["messages"][1]
    assert read(ALL[name], answer_of(ALL[name], calling), size) == ("", CALLED)
    if name != "bare":  # its template allows one call at a time
        two = [*calling["tool_calls"], call("clock", "123456789")]
        answer = answer_of(ALL[name], {**calling, "tool_calls": two})
        assert read(ALL[name], answer, size) == ("", [*CALLED, ("clock", {})])


@pytest.mark.parametrize("size", [1, 3, 20])
def test_a_generated_call_ends_the_answer_with_its_finish_reason(size: int) -> None:
    tokenizer = make_tiny_tokenizer(TEMPLATES["tagged"])
    chat, deltas = Chat(tokenizer), list[Any]()
    answer = answer_of(TEMPLATES["tagged"], CHAT["messages"][1])
    tokens = tokenizer(answer, add_special_tokens=False)["input_ids"]
    (end,) = chat.end_tokens

    def row(most: int) -> Row:
        return Row(
            account_id=UUID(int=1),
            choice=0,
            adapter=None,
            tokens=[1],
            max_tokens=most,
            ends=chat.end_tokens,
            text=ResponseText(tokenizer, ()),
            sampler=Sampler(0, 1, 0),
            listener=deltas.append,
            calls=chat.reader(TOOLS),
        )

    whole, cut = row(10_000), row(size)
    assert [whole.append(token) for token in [*tokens, end]] == [False] * len(tokens) + [True]
    (delta,) = deltas
    assert (delta.text, delta.finish_reason) == ("", "tool_calls")
    assert [call.name for call in delta.tool_calls] == ["get_weather"]
    deltas.clear()
    while not cut.append(tokens[cut.answered]):
        pass
    assert deltas[-1].finish_reason == "length"
    assert deltas[-1].tool_calls is None
    assert answer.startswith("".join(each.text for each in deltas))


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_text_before_a_call_is_content(size: int) -> None:
    said = {**CHAT["messages"][1], "content": "Let me look."}
    content, calls = read(TEMPLATES["tagged"], answer_of(TEMPLATES["tagged"], said), size)
    assert (content.strip(), calls) == ("Let me look.", CALLED)


@pytest.mark.full
@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize(
    "answer",
    [
        "Yes.",
        "a < b and <tool",
        '{"name": "unknown", "arguments": {}}',
        '<tool_call>\n{"name": "unknown", "arguments": {}}\n</tool_call>',
        '<tool_call>\n{"name": "clock", "arguments": {}',
        '<tool_call>{"name": "clock", "arguments": [1]}</tool_call>',
        '<tool_call>{"name": "clock", "arguments": {}}</tool_call> and more',
        "[" * 5000,
        "[]",
        '[TOOL_CALLS][{"name": ["clock"], "arguments": {}}]',
        " \n",
    ],
)
def test_an_answer_without_valid_calls_stays_text(answer: str, size: int) -> None:
    for template in TEMPLATES.values():
        assert read(template, answer, size) == (answer, [])


def test_a_template_without_json_calls_has_no_reader() -> None:
    written = CHAT_TEMPLATE.replace(
        "<|im_end|>", "{% for c in message.tool_calls %}{{ c.function.name }}(){% endfor %}"
    )
    assert Chat(make_tiny_tokenizer(written)).reader(TOOLS) is None
    assert Chat(make_tiny_tokenizer(TEMPLATES["tagged"])).reader([]) is None


@pytest.mark.parametrize("name", ALL)
def test_a_prompt_with_tools_equals_the_text_before_the_answer_in_training(name: str) -> None:
    tokenizer = make_tiny_tokenizer(ALL[name])
    *before, _ = CHAT["messages"]
    _, prompt = Renderer(tokenizer, 10_000).prompt(CHAT)
    assert Chat(tokenizer).text(before, TOOLS) == prompt
