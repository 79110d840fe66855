"""Token counts equal those of the training library."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from domain.training.token_lengths import Bucket, TokenLengths
from infrastructure.chat.base_tokenizer import FILES, BaseTokenizer
from infrastructure.chat.chat_labels import Example
from infrastructure.chat.chat_template import FALLBACK_CHAT_TEMPLATE
from infrastructure.chat.template_rendering import CONFIG, ChatRefused, ChatTemplate
from infrastructure.process.limited_process import Exceeded
from services.datasets import tokens
from services.datasets.tokens import count_tokens
from services.trainer.examples import Renderer
from tests.builders.tiny_model import CHAT_TEMPLATE, make_tiny_tokenizer
from tests.builders.tool_templates import CHAT as TOOL_CHAT
from tests.builders.tool_templates import TEMPLATES as TOOL_TEMPLATES
from tests.services.datasets.uploads import (
    ANSWER,
    ASSISTANT,
    CALLING,
    LOOPING,
    USER,
    chat,
    jsonl,
    user,
    validated,
)

CHATML_WITH_MARKS = """
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\n' }}
    {% if message.role == 'assistant' %}
        {%- set said = message.content %}
        {%- generation %}{{ said + '<|im_end|>' }}{% endgeneration %}
    {% else %}
        {{- message.content + '<|im_end|>' }}
    {% endif %}
    {{- '\n' }}
{%- endfor %}
"""
LLAMA_LIKE = """{{- bos_token }}
{%- set ns = namespace(system='') %}
{%- if messages[0]['role'] == 'system' %}
    {%- set ns.system = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\n\nYear: " + strftime_now("%Y") + "\n" }}
{{- ns.system }}
{%- if tools is not none %}{{ tools | tojson(indent=2) }}{% endif %}
{%- for message in messages %}
    {%- if message.role not in ['user', 'assistant', 'tool'] %}{% continue %}{% endif %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}
    {%- if 'tool_calls' in message %}
        {%- for call in message.tool_calls %}
            {{- {"name": call.function.name, "parameters": call.function.arguments} | tojson }}
        {%- endfor %}
    {%- else %}
        {{- message['content'] | trim }}
    {%- endif %}
    {{- eos_token }}
{%- endfor %}
"""
REWRITES = (
    "{% for message in messages %}"
    "{{ message['role'] + ': ' + (message['content'] if loop.last else '...') + '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
"""Shortens all but the last message, so that each answer makes an example of its own."""

TEMPLATES = {
    "chatml": CHAT_TEMPLATE,
    "chatml-with-marks": CHATML_WITH_MARKS,
    "llama-like": LLAMA_LIKE,
    "prints-all": "{% for message in messages %}{{ message | tojson }}{% endfor %}",
    "fallback": FALLBACK_CHAT_TEMPLATE,
    **TOOL_TEMPLATES,
}

EXAMPLES = [
    chat(USER, ASSISTANT),
    chat(
        {"role": "system", "content": " Be <b>brief</b> & kind. "}, USER, ASSISTANT, USER, ASSISTANT
    ),
    chat(
        {"role": "user", "content": "Zoë 😀 'quoted'"}, {**ASSISTANT, "weight": 0}, USER, ASSISTANT
    ),
    chat(USER, CALLING, ANSWER, ASSISTANT),
    chat(USER, {"role": "assistant", "content": "word " * 300}),
    TOOL_CHAT,
]


@pytest.fixture(scope="module")
def lines() -> list[bytes]:
    """Return the normalized examples."""
    report, output, _ = validated(jsonl(*EXAMPLES))
    assert report.errors == ()
    return output.splitlines()


Save = Callable[[str | None], BaseTokenizer]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Return a function that saves and reads a tokenizer with a chat template."""

    def saved(template: str | None) -> BaseTokenizer:
        tokenizer = make_tiny_tokenizer(template)
        tokenizer.backend_tokenizer.enable_truncation(8)
        tokenizer.backend_tokenizer.enable_padding(length=64)
        tokenizer.save_pretrained(tmp_path)
        paths = [tmp_path / name for name in FILES]
        return BaseTokenizer({path.name: path.read_bytes() for path in paths if path.exists()})

    return saved


def unlabeled(counts: TokenLengths) -> TokenLengths:
    return counts.model_copy(update={"labels": None})


@pytest.mark.parametrize("name", TEMPLATES)
def test_texts_and_counts_equal_the_training_librarys(
    name: str, save: Save, lines: list[bytes], tmp_path: Path
) -> None:
    base = save(TEMPLATES[name])
    renderer = Renderer(PreTrainedTokenizerFast.from_pretrained(tmp_path), 10_000)
    chats: list[dict[str, Any]] = [json.loads(line) for line in lines]
    for each in chats:
        messages, tools = base.plain(each)
        assert (messages, tools) == renderer.plain(each)
        for prompt in (False, True):
            text = base.text(messages, tools, prompt=prompt)
            assert text == renderer.text(messages, tools, prompt=prompt)
        assert base.marked(each) == renderer.marked(each)
        assert base.render(each) == renderer.render(each)
    sizes = [len(example.input_ids) for each in chats for example in renderer.render(each)]
    assert unlabeled(count_tokens(lines, base)) == TokenLengths.of(sizes)


@pytest.mark.parametrize("template", [CHAT_TEMPLATE, LLAMA_LIKE, REWRITES])
@pytest.mark.parametrize("limit", [8, 24, 31, 40, 70, 10_000])
def test_label_counts_after_truncation_equal_the_trainers(
    template: str, limit: int, save: Save, lines: list[bytes], tmp_path: Path
) -> None:
    labels = count_tokens(lines, save(template)).labels
    assert labels is not None
    renderer = Renderer(PreTrainedTokenizerFast.from_pretrained(tmp_path), limit)
    rendered = renderer.render_all((json.loads(line) for line in lines), lambda: None)
    examples = [each for parts in rendered.conversations for each in parts]
    kept = sum(each.label_tokens for each in examples if isinstance(each, Example))
    assert (labels.kept(limit) > 0) == (kept > 0)
    assert labels.kept(limit) == pytest.approx(kept, abs=5)
    assert labels.teaching(limit) == pytest.approx(len(examples), abs=2)
    assert labels.least_teaching(limit) == min(2, len(rendered.conversations))
    if limit == 10_000:
        assert labels.tokens == kept


def test_a_base_without_template_gets_the_fallback(save: Save) -> None:
    assert save(None).template.source == FALLBACK_CHAT_TEMPLATE


def test_the_fallback_is_chatml_and_keeps_tool_calls() -> None:
    def rendered(template: str, *messages: dict[str, Any]) -> str:
        return ChatTemplate(template, {}).render(list(messages))

    plain = rendered(FALLBACK_CHAT_TEMPLATE, USER, ASSISTANT)
    assert plain == rendered(CHAT_TEMPLATE, USER, ASSISTANT)
    call = {"type": "function", "function": {"name": "look", "arguments": {"at": 1}}}
    calling = {"role": "assistant", "content": "", "tool_calls": [call]}
    assert rendered(FALLBACK_CHAT_TEMPLATE, USER, calling).endswith(
        '<|im_start|>assistant\n<tool_call>{"name": "look", "arguments": {"at": 1}}</tool_call>'
        "<|im_end|>\n"
    )


def test_a_template_in_the_configuration_and_a_list_of_templates_are_read() -> None:
    def read(chat_template: Any, **tokens: Any) -> ChatTemplate:
        config = {"chat_template": chat_template, **tokens}
        return ChatTemplate.of({CONFIG: json.dumps(config).encode()})

    template = read(REWRITES, bos_token={"content": "<s>"})
    assert (template.source, template.special_tokens) == (REWRITES, {"bos_token": "<s>"})
    named = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": REWRITES}]
    assert read(named).render([USER, ASSISTANT]) == template.render([USER, ASSISTANT])
    assert read(named).render([USER, ASSISTANT], [{}]) == "x"
    with pytest.raises(ChatRefused):
        read(named[:1])


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ messages[0].content.missing.deeper }}", "has no attribute"),
        ("{{ messages[0].content + 1 }}", "concatenate"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{{ 1 // 0 }}", "zero"),
    ],
)
def test_a_template_refusal_has_the_example_number(
    template: str, words: str, save: Save, lines: list[bytes]
) -> None:
    with pytest.raises(ChatRefused, match=f"Example 1: .*{words}"):
        count_tokens(lines, save(template))


def test_an_invalid_template_and_a_missing_tokenizer_are_errors() -> None:
    with pytest.raises(ChatRefused, match="invalid"):
        ChatTemplate("{% for message in %}", {})
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json"):
        BaseTokenizer({})


def test_every_length_is_counted_in_its_bucket(save: Save) -> None:
    base = save("{% for _ in messages[0].content %}<|im_start|>{% endfor %}")
    sizes = [1, 2, 3, 4, 5, 8, 24, 26]
    counts = count_tokens(jsonl(*[chat(user("x" * size)) for size in sizes]).splitlines(), base)
    assert unlabeled(counts) == TokenLengths.of(sizes)
    assert counts.buckets[-1] == Bucket(above=23, up_to=26, examples=2, tokens=50)
    assert count_tokens([], base).tokens == 0


def test_counting_imports_no_training_library() -> None:
    program = (
        "import sys, services.datasets.tokens\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_template_that_does_not_end_is_stopped_at_its_example(
    save: Save, lines: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "RENDER_CPU_SECONDS", 0.5)
    endless = "{% if messages[0].role == 'system' %}" + LOOPING + "{% endif %}" + CHAT_TEMPLATE
    with pytest.raises(tokens.Costly) as caught:
        count_tokens(lines, save(endless))
    assert (caught.value.exceeded, caught.value.example) == (Exceeded.TIME, 2)
