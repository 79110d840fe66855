"""A chat is rendered as in training."""

from __future__ import annotations

from pathlib import Path

import pytest

from infrastructure.chat.chat_template import CHAT_TEMPLATE, FALLBACK_CHAT_TEMPLATE
from services.serving.chat import Chat
from services.serving.refusals import TemplateRefused
from services.trainer.examples import Renderer
from tests.builders import tiny_model
from tests.builders.tiny_model import make_tiny_tokenizer
from tests.services.datasets.uploads import LOOPING

CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "weather", "arguments": '{"city": "Paris"}'},
}
MESSAGES = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hello!"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "content": "rain", "tool_call_id": "call_1"},
]
PLAIN = "{% for m in messages %}[{{ m.role }}] {{ m.content }}</s> {% endfor %}"


@pytest.mark.parametrize("template", [tiny_model.CHAT_TEMPLATE, None, PLAIN])
def test_a_prompt_equals_the_text_before_the_answer_in_training(template: str | None) -> None:
    tokenizer = make_tiny_tokenizer(template)
    answer = {"role": "assistant", "content": "Bring an umbrella."}
    _, prompt = Renderer(tokenizer, 1000).prompt({"messages": [*MESSAGES, answer]})
    assert Chat(tokenizer).text(MESSAGES) == prompt


def test_an_answer_ends_with_the_end_of_its_template() -> None:
    tokenizer = make_tiny_tokenizer()
    ending = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert Chat(tokenizer).end_tokens == {ending}
    assert Chat(tokenizer).stops == ()
    assert Chat(make_tiny_tokenizer(PLAIN)).stops == ("</s>",)


def test_a_base_without_a_template_uses_the_adapters(tmp_path: Path) -> None:
    (tmp_path / CHAT_TEMPLATE).write_text(PLAIN)
    assert Chat(make_tiny_tokenizer(None), tmp_path).text(MESSAGES[:2]).endswith("[assistant]")
    own = Chat(make_tiny_tokenizer(), tmp_path)
    assert own.text(MESSAGES[:2]) == Chat(make_tiny_tokenizer()).text(MESSAGES[:2])
    assert Chat(make_tiny_tokenizer(FALLBACK_CHAT_TEMPLATE)).text(MESSAGES) == Chat(
        make_tiny_tokenizer(None)
    ).text(MESSAGES)


def test_messages_that_a_template_rejects_are_refused() -> None:
    refusing = "{{ raise_exception('system messages are not for me') }}"
    with pytest.raises(TemplateRefused, match="not for me"):
        Chat(make_tiny_tokenizer(refusing)).tokens(MESSAGES)


@pytest.mark.full
def test_a_template_that_loops_for_some_content_refuses_only_that_chat() -> None:
    looping = "{% for m in messages %}{% if 'loop' in m.content %}" + LOOPING
    chat = Chat(make_tiny_tokenizer(looping + "{% endif %}{{ m.content }}{% endfor %}"))
    with pytest.raises(TemplateRefused, match="takes more than"):
        chat.tokens([{"role": "user", "content": "loop"}])
    assert chat.text([{"role": "user", "content": "Hi"}]) == "Hi"
