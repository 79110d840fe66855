"""Token counts equal those of the training library."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from domain.training.token_lengths import Bucket, TokenLengths
from infrastructure.base_tokenizer import FILES, BaseTokenizer
from infrastructure.chat_template import FALLBACK_CHAT_TEMPLATE
from infrastructure.limited_process import Exceeded
from infrastructure.template_rendering import CONFIG, ChatRefused, ChatTemplate
from services.datasets import tokens
from services.datasets.tokens import count_tokens
from services.trainer.examples import Renderer
from tests.services.datasets.uploads import (
    ANSWER,
    ASSISTANT,
    CALLING,
    USER,
    chat,
    jsonl,
    validated,
)

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
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
{%- if tools is not none %}{{ tools | tojson(indent=2) }}{% endif %}
"""
PRINTS_ALL = "{% for message in messages %}{{ message | tojson }}{% endfor %}"
TEMPLATES = {
    "chatml": CHATML,
    "chatml-with-marks": CHATML_WITH_MARKS,
    "llama-like": LLAMA_LIKE,
    "prints-all": PRINTS_ALL,
    "fallback": FALLBACK_CHAT_TEMPLATE,
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
]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer of 400 tokens."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator([json.dumps(EXAMPLES)] * 4, trainer)
    core.enable_truncation(8)
    core.enable_padding(length=64)
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )


@pytest.fixture(scope="module")
def lines() -> list[bytes]:
    """The normalised examples."""
    report, output, _ = validated(jsonl(*EXAMPLES))
    assert report.errors == ()
    return output.splitlines()


def saved(
    tokenizer: PreTrainedTokenizerFast, template: str | None, directory: Path
) -> BaseTokenizer:
    tokenizer.chat_template = template
    tokenizer.save_pretrained(directory)
    return BaseTokenizer(files_of(directory))


def unlabelled(counts: TokenLengths) -> TokenLengths:
    return counts.model_copy(update={"labels": None})


def files_of(directory: Path) -> dict[str, bytes]:
    return {name: (directory / name).read_bytes() for name in FILES if (directory / name).exists()}


@pytest.mark.parametrize("name", TEMPLATES)
def test_texts_and_counts_equal_the_training_librarys(
    name: str, tokenizer: PreTrainedTokenizerFast, lines: list[bytes], tmp_path: Path
) -> None:
    base = saved(tokenizer, TEMPLATES[name], tmp_path)
    renderer = Renderer(PreTrainedTokenizerFast.from_pretrained(tmp_path), 10_000)
    chats: list[dict[str, Any]] = [json.loads(line) for line in lines]
    for chat_ in chats:
        messages = base.plain(chat_)
        assert messages == renderer.plain(chat_)
        assert base.text(messages, None) == renderer.text(messages, None)
        asking = base.text(messages, None, prompt=True)
        assert asking == renderer.text(messages, None, prompt=True)
        assert base.marked(chat_) == renderer.marked(chat_)
        assert base.render(chat_) == renderer.render(chat_)
    sizes = [len(example.input_ids) for chat_ in chats for example in renderer.render(chat_)]
    counts = count_tokens(lines, base)
    assert unlabelled(counts) == TokenLengths.of(sizes)
    assert (counts.examples, counts.tokens) == (len(lines), sum(sizes))


REWRITES = (
    "{% for message in messages %}"
    "{{ message['role'] + ': ' + (message['content'] if loop.last else '...') + '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
"""Shortens all but the last message, so that each answer makes an example of its own."""


@pytest.mark.parametrize("template", [CHATML, LLAMA_LIKE, REWRITES])
@pytest.mark.parametrize("limit", [8, 24, 31, 40, 70, 10_000])
def test_label_counts_after_truncation_equal_the_trainers(
    template: str,
    limit: int,
    tokenizer: PreTrainedTokenizerFast,
    lines: list[bytes],
    tmp_path: Path,
) -> None:
    labels = count_tokens(lines, saved(tokenizer, template, tmp_path)).labels
    assert labels is not None
    renderer = Renderer(PreTrainedTokenizerFast.from_pretrained(tmp_path), limit)
    rendered = renderer.render_all((json.loads(line) for line in lines), lambda: None)
    kept = sum(each.label_tokens for parts in rendered.conversations for each in parts)
    assert (labels.kept(limit) > 0) == (kept > 0)
    assert labels.kept(limit) == pytest.approx(kept, abs=5)
    assert labels.teaching(limit) == pytest.approx(len(rendered.conversations), abs=1)
    if limit == 10_000:
        assert labels.tokens == kept


def test_a_base_without_template_gets_the_fallback(
    tokenizer: PreTrainedTokenizerFast, lines: list[bytes], tmp_path: Path
) -> None:
    base = saved(tokenizer, None, tmp_path)
    assert base.template.source == FALLBACK_CHAT_TEMPLATE
    assert count_tokens(lines, base).examples == len(lines)


def test_the_fallback_is_chatml_and_keeps_tool_calls() -> None:
    template = ChatTemplate(FALLBACK_CHAT_TEMPLATE, {})
    assert template.render([USER, ASSISTANT]) == ChatTemplate(CHATML, {}).render([USER, ASSISTANT])
    call = {"type": "function", "function": {"name": "look", "arguments": {"at": 1}}}
    assert template.render(
        [USER, {"role": "assistant", "content": "", "tool_calls": [call]}]
    ).endswith(
        '<|im_start|>assistant\n<tool_call>{"name": "look", "arguments": {"at": 1}}</tool_call>'
        "<|im_end|>\n"
    )


def test_a_template_in_the_configuration_and_a_list_of_templates_are_read() -> None:
    def read(chat_template: Any, **tokens: Any) -> ChatTemplate:
        config = {"chat_template": chat_template, **tokens}
        return ChatTemplate.of({CONFIG: json.dumps(config).encode()})

    template = read(CHATML, bos_token={"content": "<s>"})
    assert (template.source, template.special_tokens) == (CHATML, {"bos_token": "<s>"})
    named = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": CHATML}]
    assert read(named).source == CHATML
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
    template: str,
    words: str,
    tokenizer: PreTrainedTokenizerFast,
    lines: list[bytes],
    tmp_path: Path,
) -> None:
    with pytest.raises(ChatRefused, match=f"Example 1: .*{words}"):
        count_tokens(lines, saved(tokenizer, template, tmp_path))


def test_an_invalid_template_is_refused() -> None:
    with pytest.raises(ChatRefused, match="invalid"):
        ChatTemplate("{% for message in %}", {})


def test_every_length_is_counted_in_its_bucket(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    template = "{% for _ in messages[0].content %}<s>{% endfor %}"
    base = saved(tokenizer, template, tmp_path)
    sizes = [1, 2, 3, 4, 5, 8, 24, 26]
    marks = [chat({"role": "user", "content": "x" * size}) for size in sizes]
    counts = count_tokens(jsonl(*marks).splitlines(), base)
    assert unlabelled(counts) == TokenLengths.of(sizes)
    assert counts.buckets[-1] == Bucket(above=23, up_to=26, examples=2, tokens=50)


def test_an_empty_dataset_has_no_tokens(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    counts = count_tokens([], saved(tokenizer, CHATML, tmp_path))
    assert (counts.examples, counts.tokens, counts.longest) == (0, 0, 0)


def test_a_base_without_tokenizer_is_an_error() -> None:
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json"):
        BaseTokenizer({})


def test_counting_imports_no_training_library() -> None:
    program = (
        "import sys, services.datasets.tokens\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_template_that_does_not_end_is_stopped_at_its_example(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    endless = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    tokenizer.chat_template = (
        "{% if messages[0].role == 'system' %}" + endless + "{% endif %}" + CHATML
    )
    tokenizer.save_pretrained(tmp_path)
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name in FILES}
    monkeypatch.setattr(tokens, "RENDER_CPU_SECONDS", 0.5)
    with pytest.raises(tokens.Costly) as caught:
        count_tokens(map(str.encode, map(json.dumps, EXAMPLES)), BaseTokenizer(files))
    assert (caught.value.exceeded, caught.value.example) == (Exceeded.TIME, 2)
