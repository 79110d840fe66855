"""Bases of other architectures are answered as by transformers, or refused."""

from __future__ import annotations

import errno
from bisect import bisect_left
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    OlmoConfig,
    Phi3Config,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from services.serving import attention, base_model
from services.serving.base_model import BaseModel, dtype_on
from services.serving.deployed import CannotServe
from services.serving.engine import Engine
from services.serving.refusals import ContextExceeded
from tests.builders.tiny_model import make_tiny_tokenizer
from tests.services.serving.answers import Answers
from tests.services.serving.test_engine import QUESTIONS, generated

CPU = torch.device("cpu")
SIZES: dict[str, Any] = {
    "vocab_size": 372,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def saved(config: PreTrainedConfig, directory: Path) -> Path:
    """A model with random weights and the tiny tokenizer."""
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    make_tiny_tokenizer().save_pretrained(directory)
    return directory


@pytest.mark.parametrize(
    "config",
    [
        Qwen2Config(**SIZES),
        Qwen3Config(**SIZES),
        MistralConfig(**SIZES, sliding_window=16),
        Gemma3TextConfig(
            **SIZES, sliding_window=16, layer_types=["sliding_attention", "full_attention"]
        ),
        OlmoConfig(**SIZES),
        Phi3Config(**SIZES),
        GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=512, **SIZES),
    ],
    ids=lambda config: config.model_type,
)
def test_answers_equal_those_of_transformers(
    config: PreTrainedConfig, engine: Engine, tmp_path: Path
) -> None:
    answers = Answers(engine, saved(config, tmp_path))
    answers.attach()
    begun = [(text, answers.ask("base", text, max_tokens=20)) for text in QUESTIONS]
    for text, answer in begun:
        assert answer.wait().tokens == generated(answers.base, None, text, 20)


ROPES: dict[str, tuple[dict[str, Any], int]] = {
    "linear": ({"factor": 2.0}, 512),
    "yarn": ({"factor": 4.0, "original_max_position_embeddings": 128}, 512),
    "llama3": (
        {
            **{"factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
            "original_max_position_embeddings": 128,
        },
        512,
    ),
    "dynamic": ({"factor": 2.0}, 512),
    "longrope": (
        {
            **{"short_factor": [1.0] * 4, "long_factor": [2.0, 3.0, 5.0, 8.0]},
            "original_max_position_embeddings": 132,
        },
        128,
    ),
}
"""Parameters of rotary embeddings, with the context in which they do not depend on the batch."""


@pytest.mark.full
@pytest.mark.parametrize("kind", ROPES)
def test_the_length_of_one_prompt_does_not_change_other_answers(
    kind: str, engine: Engine, tmp_path: Path
) -> None:
    parameters, context = ROPES[kind]
    rope = {"rope_type": kind, "rope_theta": 10_000.0, **parameters}
    answers = Answers(engine, saved(LlamaConfig(**SIZES, rope_parameters=rope), tmp_path))
    answers.attach()
    assert answers.batch.base.context == context
    short, new_tokens = "Thanks.", 20
    long = _longest(answers, context - new_tokens)
    with pytest.raises(ContextExceeded):
        answers.ask("base", long * 2 + "x" * context)
    expected = {text: generated(answers.base, None, text, new_tokens) for text in (short, long)}
    for texts in ([short], [long], [short, long], [long, short]):
        begun = [
            (text, answers.ask("base", text, max_tokens=new_tokens, account_id=UUID(int=number)))
            for number, text in enumerate(texts)
        ]
        for text, answer in begun:
            assert answer.wait().tokens == expected[text]


def _longest(answers: Answers, tokens: int) -> str:
    """Return a prompt of as many tokens, or a few less."""
    encode = answers.batch.base.tokenizer.apply_chat_template

    def length(words: int) -> int:
        return len(encode([{"role": "user", "content": "fox " * words}], return_dict=False))

    return "fox " * bisect_left(range(tokens), tokens - 8, key=length)


def test_an_unknown_attention_is_refused(tmp_path: Path) -> None:
    directory = saved(Gemma2Config(**SIZES), tmp_path)
    with pytest.raises(CannotServe, match="softcap") as refused:
        BaseModel.load(directory, torch.float32, CPU)
    assert refused.value.code == "unsupported_architecture"


def test_a_base_with_different_logits_is_refused(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def attend(*arguments: Any, **named: Any) -> tuple[torch.Tensor, None]:
        output, _ = attention.attend(*arguments, **named)
        return output * 1.5, None

    monkeypatch.setattr(attention, "NAME", "wrong")
    attention.AttentionInterface.register("wrong", attend)
    attention.AttentionMaskInterface.register("wrong", attention._no_mask)
    with pytest.raises(CannotServe) as refused:
        BaseModel.load(tiny_model, torch.float32, CPU)
    assert refused.value.code == "unsupported_architecture"


@pytest.mark.parametrize(
    ("owner", "method", "error"),
    [
        (AutoModelForCausalLM, "from_pretrained", torch.OutOfMemoryError("CUDA out of memory.")),
        (LlamaForCausalLM, "set_attn_implementation", torch.OutOfMemoryError("No memory.")),
        (AutoModelForCausalLM, "from_pretrained", OSError(errno.EMFILE, "Too many open files")),
    ],
)
def test_exhausted_resources_do_not_refuse_a_base(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, owner: type, method: str, error: Exception
) -> None:
    def exhausted(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(owner, method, exhausted)
    with pytest.raises(type(error)):
        BaseModel.load(tiny_model, torch.float32, CPU)


def test_invalid_base_directories_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CannotServe) as refused:
        BaseModel.load(tmp_path, torch.float32, CPU)
    assert refused.value.code == "base_unreadable"
    assert str(tmp_path) not in refused.value.message


def test_the_precision_can_be_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    assert dtype_on(CPU, "fp32") is torch.float32
    assert dtype_on(CPU, "bf16") is torch.bfloat16
    monkeypatch.setattr(base_model.torch.cpu, "get_capabilities", dict)
    assert dtype_on(CPU, None) is torch.float32
