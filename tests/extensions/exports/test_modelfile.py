"""Modelfiles of usual chat templates."""

from __future__ import annotations

import pytest

from extensions.exports.worker.modelfile import chat_format, modelfile
from infrastructure.chat.template_rendering import ChatTemplate
from tests.builders.tiny_model import CHAT_TEMPLATE

SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
    "<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + "
    "'<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
    "{% endif %}"
)
NUMBERED = "{% for m in messages %}{{ loop.index }} {{ m.role }}: {{ m.content }}\n{% endfor %}"
NO_SYSTEM = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no') }}{% endif %}"
    "{{ m.role }}: {{ m.content }}\n{% endfor %}"
)

TOKENS = {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}
CHATML = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}


def test_chatml_becomes_a_template_of_ollama() -> None:
    made = modelfile(
        "model.gguf",
        ChatTemplate(CHAT_TEMPLATE, CHATML),
        adds_bos=False,
        ends=["<|im_end|>"],
        context=256,
        generation={"temperature": 0.7, "top_p": 0.8, "top_k": None},
    )
    assert made == (
        "FROM ./model.gguf\n\n"
        'TEMPLATE """{{ range .Messages }}'
        '{{ if eq .Role "system" }}<|im_start|>system\n{{ .Content }}<|im_end|>\n'
        '{{ else if eq .Role "user" }}<|im_start|>user\n{{ .Content }}<|im_end|>\n'
        '{{ else if eq .Role "assistant" }}<|im_start|>assistant\n{{ .Content }}<|im_end|>\n'
        '{{ end }}{{ end }}<|im_start|>assistant\n"""\n\n'
        'PARAMETER stop "<|im_end|>"\n'
        "PARAMETER num_ctx 256\nPARAMETER temperature 0.7\nPARAMETER top_p 0.8\n"
    )


@pytest.mark.parametrize(
    ("context", "lines"),
    [
        (8192, "PARAMETER num_ctx 8192\n"),
        (
            131_072,
            "# The model supports 131,072 tokens. More context needs more memory.\n"
            "PARAMETER num_ctx 8192\n",
        ),
    ],
    ids=["short", "long"],
)
def test_a_long_context_is_not_allocated_by_default(context: int, lines: str) -> None:
    made = modelfile("m.gguf", None, adds_bos=False, ends=[], context=context, generation={})
    assert made.endswith(f"GGUF file.\n\n{lines}")


def test_keeps_a_default_system_message() -> None:
    found = chat_format(ChatTemplate(SMOLLM2, CHATML))
    assert found is not None
    assert found.default_system.startswith("<|im_start|>system\nYou are a helpful AI assistant")
    assert "{{ if not .System }}<|im_start|>system" in found.go_template


@pytest.mark.parametrize(("adds_bos", "starts"), [(True, "{{ range"), (False, "<|begin_of_text|>")])
def test_the_bos_token_occurs_once(adds_bos: bool, starts: str) -> None:
    made = modelfile(
        "model.gguf",
        ChatTemplate(LLAMA3, TOKENS),
        adds_bos=adds_bos,
        ends=["<|eot_id|>"],
        context=8192,
        generation={},
    )
    assert f'TEMPLATE """{starts}' in made
    assert '{{ if eq .Role "system" }}<|start_header_id|>system<|end_header_id|>\n\n' in made


@pytest.mark.parametrize("source", [NUMBERED, NO_SYSTEM], ids=["numbered", "no system"])
def test_other_templates_stay_in_the_gguf_file(source: str) -> None:
    template = ChatTemplate(source, {})
    assert chat_format(template) is None
    made = modelfile("m.gguf", template, adds_bos=False, ends=["</s>"], context=2048, generation={})
    assert "TEMPLATE" not in made
    assert 'PARAMETER stop "</s>"' in made
