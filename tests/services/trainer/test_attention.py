"""Attention over packed examples against rows that are padded, and torch's own attention."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from infrastructure.chat_labels import IGNORED, Example
from services.trainer.attention import NAME, SHORT_ROW
from services.trainer.batches import Batch, collate, loss_sum
from services.trainer.model import CPU, load_base
from services.trainer.packing import pack_if_able


def example(tokens: int, seed: int) -> Example:
    ids = torch.randint(3, 300, (tokens,), generator=torch.Generator().manual_seed(seed)).tolist()
    return Example(tuple(ids), (IGNORED,) * (tokens // 2) + tuple(ids[tokens // 2 :]))


def packed(tiny_model: Path):
    base = load_base(tiny_model, torch.float32)
    pack_if_able(base)
    assert base.config._attn_implementation == NAME
    return base


def gradients(base, batch: Batch) -> list[torch.Tensor]:
    return list(torch.autograd.grad(loss_sum(base, batch), list(base.model.layers.parameters())))


@pytest.mark.parametrize("sizes", [(12,), (30, 7, 1, 22), (SHORT_ROW - 20, 60, 5)])
def test_loss_and_gradients_are_those_of_padded_rows(tiny_model: Path, sizes: tuple[int, ...]):
    examples = [example(size, seed) for seed, size in enumerate(sizes)]
    batch = collate(examples, CPU)
    assert (batch.tokens, batch.shape[0]) == (sum(sizes), len(sizes))
    assert batch.label_tokens == sum(each.label_tokens for each in examples)
    base, plain = packed(tiny_model), load_base(tiny_model, torch.float32)
    torch.testing.assert_close(loss_sum(base, batch), loss_sum(plain, batch))
    torch.testing.assert_close(gradients(base, batch), gradients(plain, batch))


def test_long_examples_attend_by_torch_s_own_attention(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
):
    batch = collate([example(40, 1), example(25, 2)], CPU)
    base = packed(tiny_model)
    expected = loss_sum(base, batch), gradients(base, batch)
    monkeypatch.setattr("services.trainer.attention.SHORT_ROW", 8)
    torch.testing.assert_close((loss_sum(base, batch), gradients(base, batch)), expected)


def test_an_example_does_not_see_the_others(tiny_model: Path):
    base, one, other = packed(tiny_model), example(20, 1), example(33, 2)
    together = loss_sum(base, collate([one, other], CPU))
    alone = sum(loss_sum(base, collate([each], CPU)) for each in (one, other))
    torch.testing.assert_close(together, alone)


def test_it_generates_as_ever(tiny_model: Path):
    base, plain = packed(tiny_model), load_base(tiny_model, torch.float32)
    # Padded on the left, so that a mask is needed; with a cache, where one query sees many keys.
    ids = torch.arange(3, 19).view(2, 8)
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    options = {"attention_mask": mask, "max_new_tokens": 12, "do_sample": False}
    assert torch.equal(base.generate(ids, **options), plain.generate(ids, **options))
