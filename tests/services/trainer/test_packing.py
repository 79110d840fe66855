"""The bases that use packed attention, and training without it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    NemotronConfig,
    PreTrainedConfig,
    StableLmConfig,
)

from infrastructure.chat.chat_labels import Example
from services.trainer import packing
from services.trainer.batches import collate, logits_of
from services.trainer.kernels.attention import NAME
from services.trainer.model import context_length, load_base
from services.trainer.packing import pack_if_able
from tests.builders.tiny_model import make_tiny_tokenizer

UNABLE = [StableLmConfig, NemotronConfig]
"""Architectures whose layers do not pass the options to attention."""


def save_tiny(kind: type[PreTrainedConfig], directory: Path, **fields: Any) -> Path:
    """Save a tiny model of this architecture."""
    tokenizer = make_tiny_tokenizer()
    torch.manual_seed(0)
    config = kind(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
        **{"max_position_embeddings": 256, **fields},
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def attention_of(base) -> str:
    return base.config._attn_implementation


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", [LlamaConfig, *UNABLE])
def test_a_base_is_packed_if_its_logits_are_equal(
    tmp_path: Path, kind: type[PreTrainedConfig], dtype: torch.dtype
) -> None:
    base = load_base(save_tiny(kind, tmp_path), dtype)
    expected = packing._logits(base)
    before = torch.get_rng_state()
    buffers = {name: buffer.clone() for name, buffer in base.named_buffers()}
    pack_if_able(base)
    assert attention_of(base) == ("sdpa" if kind in UNABLE else NAME)
    assert packing._close(packing._logits(base), expected)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in base.named_buffers())


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "linear", "factor": 2.0},
        {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 100},
        {"rope_type": "dynamic", "factor": 2.0},
        {
            "rope_type": "longrope",
            **{"short_factor": [1.0] * 4, "long_factor": [2.0, 3.0, 5.0, 8.0]},
            "original_max_position_embeddings": 100,
        },
    ],
    ids=lambda rope: rope["rope_type"],
)
def test_the_length_of_one_example_does_not_change_others(
    tmp_path: Path, rope: dict[str, Any], *, packed: bool
) -> None:
    """Up to the context length, padding included."""
    parameters = {"rope_theta": 10_000.0, **rope}
    fields = {"max_position_embeddings": 204, "rope_parameters": parameters}
    directory = save_tiny(LlamaConfig, tmp_path, **fields)
    base = load_base(directory, torch.float32)
    if packed:
        pack_if_able(base)
        assert attention_of(base) == NAME
    length = context_length(base, make_tiny_tokenizer())
    assert length == {"dynamic": 200, "longrope": 96}.get(rope["rope_type"], 204)
    rows = (tuple((7 * place + 3) % 300 for place in range(count)) for count in (32, length))
    short, long = (Example(row, row) for row in rows)
    with torch.no_grad():
        alone = logits_of(base, collate([short], base.device))
        beside = logits_of(base, collate([short, long], base.device))
    assert packing._close(beside[: len(alone)], alone)


def test_a_base_that_mixes_tokens_outside_attention_reads_padded_rows(tiny_model: Path) -> None:
    """For example with convolutions, in which a packed example sees the previous one."""
    base = load_base(tiny_model, torch.float32)
    base.get_input_embeddings().register_forward_hook(
        lambda module, given, states: states + torch.nn.functional.pad(states, (0, 0, 1, -1))
    )
    pack_if_able(base)
    assert attention_of(base) == "sdpa"


def test_out_of_memory_is_raised_from_the_packing_test(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, logits = load_base(tiny_model, torch.float32), packing._logits

    def scarce(base) -> torch.Tensor:
        if attention_of(base) == NAME:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return logits(base)

    monkeypatch.setattr(packing, "_logits", scarce)
    with pytest.raises(torch.OutOfMemoryError):
        pack_if_able(base)


@pytest.mark.parametrize(
    ("fields", "attention"),
    [
        ({"layer_types": ["full_attention", "sliding_attention"]}, "sdpa"),
        ({"layer_types": ["full_attention"] * 2, "sliding_window": 64}, NAME),
        ({"layer_types": None, "sliding_window": 64}, "sdpa"),
    ],
)
def test_a_base_with_sliding_windows_keeps_its_attention(
    tiny_model: Path, fields: dict, attention: str
) -> None:
    base = load_base(tiny_model, torch.float32)
    for name, value in fields.items():
        setattr(base.config, name, value)
    pack_if_able(base)
    assert attention_of(base) == attention
