"""Labels with the templates of several model families, which do not mark the answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from infrastructure.chat.base_tokenizer import BaseTokenizer
from infrastructure.chat.chat_labels import IGNORED, Unrenderable
from services.trainer.examples import Renderer
from tests.builders.tiny_model import make_tiny_tokenizer

LLAMA = (
    "{{ '<|begin_of_text|>' }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' "
    "+ message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
"""It has headers around roles, an empty line, and an end of turn."""

MISTRAL = (
    "{{ '<s>' }}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'] + '</s>' }}{% endif %}{% endfor %}"
)
"""It has no generation prompt and no system message. An answer begins with a space."""

GEMMA = (
    "{{ '<bos>' }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}"
    "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
"""It has another name for the assistant, a newline after the end of turn, and no system message."""

QWEN = (
    "{% set ns = namespace(last=0) %}{% for message in messages %}"
    "{% if message['role'] == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for message in messages %}{% set content = message['content'] %}"
    "{% set thought = '' %}{% if message['role'] == 'assistant' and '</think>' in content %}"
    "{% set thought = content.split('</think>')[0].split('<think>')[-1].strip('\n') %}"
    "{% set content = content.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' and loop.index0 > ns.last and (loop.last or thought) %}"
    "{{ '<think>\n' + thought + '\n</think>\n\n' }}{% endif %}"
    "{{ content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""It writes the thought of the newest answer, even if empty, and drops earlier ones."""

MARKS = [
    *("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    *("<s>", "</s>", "[INST]", "[/INST]", "<bos>", "<start_of_turn>", "<end_of_turn>"),
]

SYSTEM = {"role": "system", "content": "Be brief."}
QUESTION = {"role": "user", "content": "Where is it?"}
MORE = {"role": "user", "content": " And then? "}
PARIS = {"role": "assistant", "content": "Paris."}
ROME = {"role": "assistant", "content": "Rome, é."}
THOUGHT = {"role": "assistant", "content": "<think>\nFrance?\n</think>\n\nParis."}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    made = make_tiny_tokenizer()
    made.add_tokens(MARKS, special_tokens=True)
    made.add_tokens(["<think>", "</think>"])  # as reasoning models have them
    return made


def learned(tokenizer: Any, template: str, *messages: dict[str, Any]) -> list[str]:
    """The text of each example's labels."""
    tokenizer.chat_template = template
    examples = Renderer(tokenizer, 1000).render({"messages": list(messages)})
    for example in examples:
        labeled = [i for i, label in enumerate(example.labels) if label != IGNORED]
        assert [example.labels[i] for i in labeled] == [example.input_ids[i] for i in labeled]
    return [
        tokenizer.decode([label for label in example.labels if label != IGNORED])
        for example in examples
    ]


@pytest.mark.parametrize(
    ("template", "system", "taught"),
    [
        pytest.param(LLAMA, True, ["Paris.<|eot_id|>Rome, é.<|eot_id|>"], id="llama"),
        pytest.param(MISTRAL, False, [" Paris.</s> Rome, é.</s>"], id="mistral"),
        pytest.param(GEMMA, False, ["Paris.<end_of_turn>Rome, é.<end_of_turn>"], id="gemma"),
        pytest.param(
            QWEN,
            True,
            [
                "<think>\n\n</think>\n\nParis.<|im_end|>",
                "<think>\n\n</think>\n\nRome, é.<|im_end|>",
            ],
            id="qwen",
        ),
    ],
)
def test_the_answers_and_their_end_are_learned(
    tokenizer: Any, template: str, system: bool, taught: list[str]
) -> None:
    chat = [QUESTION, PARIS, MORE, ROME]
    assert learned(tokenizer, template, *chat) == taught
    if system:
        assert learned(tokenizer, template, SYSTEM, *chat) == taught
    else:
        with pytest.raises(Unrenderable):
            learned(tokenizer, template, SYSTEM, *chat)
    # Messages after the last answer are not used. A message with a weight of 0 has no labels.
    assert learned(tokenizer, template, *chat, QUESTION) == taught or template is QWEN
    (last,) = learned(tokenizer, template, QUESTION, {**PARIS, "weight": 0}, MORE, ROME)
    assert "Paris" not in last
    assert taught[-1].endswith(last)


def test_a_thought_is_learned_in_its_answer_and_dropped_from_later_ones(tokenizer: Any) -> None:
    chat = [QUESTION, THOUGHT, MORE, {**ROME, "content": "<think>\nItaly?\n</think>\n\nRome."}]
    assert learned(tokenizer, QWEN, *chat) == [
        "<think>\nFrance?\n</think>\n\nParis.<|im_end|>",
        "<think>\nItaly?\n</think>\n\nRome.<|im_end|>",
    ]
    first, second = Renderer(tokenizer, 1000).render({"messages": chat})
    assert "France" not in tokenizer.decode(second.input_ids)
    assert "Italy" not in tokenizer.decode(first.input_ids)


@pytest.mark.parametrize(
    ("template", "end"),
    [
        (LLAMA, "<|start_header_id|>assistant<|end_header_id|>\n\n"),
        (MISTRAL, "</s>[INST]  And then?  [/INST]"),
        (GEMMA, "<end_of_turn>\n<start_of_turn>model\n"),
        (QWEN, "<|im_end|>\n<|im_start|>assistant\n"),
    ],
    ids=["llama", "mistral", "gemma", "qwen"],
)
def test_the_prompt_and_the_labels_on_pages_are_those_of_training(
    tokenizer: Any, template: str, end: str, tmp_path: Path
) -> None:
    tokenizer.chat_template = template
    chat = [QUESTION, PARIS, MORE, ROME, QUESTION]
    messages, text = Renderer(tokenizer, 1000).prompt({"messages": chat})
    assert messages == chat[:3]
    assert text.endswith(end)
    tokenizer.save_pretrained(tmp_path)
    shown = BaseTokenizer({path.name: path.read_bytes() for path in tmp_path.iterdir()})
    trained = Renderer(tokenizer, 1000)
    for messages in (chat, [QUESTION, THOUGHT, MORE, {**ROME, "weight": 0}, MORE, ROME]):
        assert shown.render({"messages": messages}) == trained.render({"messages": messages})
        plain, _ = trained.plain({"messages": messages})
        assert trained.text(plain, None) == tokenizer.apply_chat_template(plain, tokenize=False)
