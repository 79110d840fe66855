"""Attention over short rows against torch's own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from services.trainer.attention import NAME, SHORT_ROW, attend
from services.trainer.model import load_base


def heads(count: int, tokens: int) -> torch.Tensor:
    return torch.randn(3, count, tokens, 8, requires_grad=True)


@pytest.mark.parametrize("tokens", [1, 24, SHORT_ROW, SHORT_ROW + 8])
def test_outputs_and_gradients_are_those_of_torch(tiny_model: Path, tokens: int):
    torch.manual_seed(0)
    module = load_base(tiny_model, torch.float32).model.layers[0].self_attn
    inputs = heads(4, tokens), heads(2, tokens), heads(2, tokens)
    found, _ = attend(module, *inputs, None)
    expected, _ = sdpa_attention_forward(module, *inputs, None)
    torch.testing.assert_close(found, expected)
    gradient = torch.randn_like(found)
    torch.testing.assert_close(
        torch.autograd.grad(found, inputs, gradient),
        torch.autograd.grad(expected, inputs, gradient),
    )


def test_a_base_on_a_cpu_has_it_and_generates_with_it(tiny_model: Path):
    base, plain = (load_base(tiny_model, torch.float32) for _ in range(2))
    assert base.config._attn_implementation == NAME
    plain.set_attn_implementation("sdpa")
    # Padded on the left, so that a mask is needed; with a cache, where one query sees many keys.
    ids = torch.arange(3, 19).view(2, 8)
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    options = {"attention_mask": mask, "max_new_tokens": 12, "do_sample": False}
    assert torch.equal(base.generate(ids, **options), plain.generate(ids, **options))
