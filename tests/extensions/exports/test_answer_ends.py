"""The ends of answers in exports are those of serving."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from extensions.exports.worker.answer_ends import ends_of
from infrastructure.chat.chat_template import FALLBACK_CHAT_TEMPLATE
from services.serving.chat import Chat
from tests.builders.tiny_model import CHAT_TEMPLATE, make_tiny_tokenizer
from tests.extensions.exports.test_gguf_file import make_sentencepiece

OTHER = CHAT_TEMPLATE.replace("<|im_end|>", "<|endoftext|>")
REFUSING = "{{ raise_exception('no') }}"


@pytest.mark.parametrize(
    ("template", "texts"),
    [
        (CHAT_TEMPLATE, ["<|im_end|>"]),
        (OTHER, ["<|im_end|>", "<|endoftext|>"]),
        (CHAT_TEMPLATE.replace("<|im_end|>", "</end>"), ["<|im_end|>", "</end>"]),
        (REFUSING, ["<|im_end|>"]),
        ("{% if %}", ["<|im_end|>"]),
        (None, ["<|im_end|>"]),
    ],
    ids=["eos", "other token", "text", "refusing", "invalid", "none"],
)
def test_the_template_ends_answers(tmp_path: Path, template: str | None, texts: list[str]) -> None:
    make_tiny_tokenizer(template).save_pretrained(tmp_path)
    ends = ends_of(tmp_path)
    assert list(ends.texts) == texts
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    known = map(tokenizer.get_vocab().get, texts)
    assert set(ends.tokens) == {id for id in known if id is not None}
    if template != "{% if %}":
        chat = Chat(tokenizer)
        assert chat.end_tokens <= set(ends.tokens)
        assert set(chat.stops) <= set(ends.texts)


def test_markers_without_tokens_end_answers_as_text(tmp_path: Path) -> None:
    """A base of Llama 2's kind without a template is trained with ChatML as plain text."""
    make_sentencepiece(tmp_path)
    (tmp_path / "chat_template.jinja").write_text(FALLBACK_CHAT_TEMPLATE)
    ends = ends_of(tmp_path)
    assert ends.texts == ("</s>", "<|im_end|>")
    assert ends.besides(ends.tokens[0]) is None


def test_the_end_of_the_template_precedes_those_of_the_configuration(tmp_path: Path) -> None:
    make_tiny_tokenizer(OTHER).save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 1]}))
    ends = ends_of(tmp_path)
    assert ends.texts == ("<|im_end|>", "<|endoftext|>", "<|im_start|>")
    assert ends.besides(2) == 0
    make_tiny_tokenizer().save_pretrained(tmp_path)
    assert ends_of(tmp_path).besides(2) == 1
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": 2}))
    assert ends_of(tmp_path).besides(2) is None
