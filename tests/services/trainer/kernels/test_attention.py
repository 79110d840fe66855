"""Packed attention compared with padded rows and torch's attention."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from domain.training.hyperparameters import Hyperparameters
from infrastructure.chat.chat_labels import IGNORED, Example
from services.trainer.batches import Batch, collate, loss_sum
from services.trainer.kernels.attention import NAME, SHORT_ROW
from services.trainer.kernels.lora import Dropout
from services.trainer.model import CPU, attach_adapter, load_base
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
def test_loss_and_gradients_equal_those_of_padded_rows(tiny_model: Path, sizes: tuple[int, ...]):
    examples = [example(size, seed) for seed, size in enumerate(sizes)]
    batch = collate(examples, CPU)
    assert (batch.tokens, batch.shape[0]) == (sum(sizes), len(sizes))
    assert batch.label_tokens == sum(each.label_tokens for each in examples)
    base, plain = packed(tiny_model), load_base(tiny_model, torch.float32)
    torch.testing.assert_close(loss_sum(base, batch), loss_sum(plain, batch))
    torch.testing.assert_close(gradients(base, batch), gradients(plain, batch))


def test_a_batch_is_copied_to_a_gpu_without_a_wait(monkeypatch: pytest.MonkeyPatch):
    """The meta device replaces a GPU. A copy of unpinned memory would wait for its stream."""
    pinned, waits, to = list[torch.Tensor](), list[bool](), torch.Tensor.to

    def pin(part: torch.Tensor) -> torch.Tensor:
        pinned.append(part)
        return part

    def copy(part: torch.Tensor, device: torch.device, non_blocking: bool = False) -> torch.Tensor:
        waits.append(not non_blocking)
        return to(part, device)

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    monkeypatch.setattr(torch.Tensor, "to", copy)
    examples = [example(12, 1), example(7, 2)]
    batch, on_gpu = collate(examples, CPU), collate(examples, torch.device("meta"))
    assert waits == [False] * len(vars(batch))
    assert {part.device.type for part in vars(on_gpu).values()} == {"meta"}
    assert all(map(torch.equal, vars(batch).values(), pinned))


class NoWaiting(TorchDispatchMode):
    """Refuses operations that wait for a GPU."""

    WAITING = frozenset({"_local_scalar_dense", "nonzero", "masked_select", "equal"})

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        masks = name == "index" and any(at is not None and at.dtype is torch.bool for at in args[1])
        assert name not in self.WAITING, name
        assert not masks
        return func(*args, **(kwargs or {}))


def test_a_micro_batch_never_waits_for_a_gpu_result(tiny_model: Path):
    """The next one is prepared while the GPU still runs."""
    model = attach_adapter(packed(tiny_model), Hyperparameters(dropout=0.1), "tiny").train()
    batch = collate([example(12, 1), example(7, 2)], CPU)
    with NoWaiting(), Dropout(model).drawn(batch.tokens, torch.float32, CPU):
        loss_sum(model, batch).backward()
    with pytest.raises(AssertionError, match="_local_scalar_dense"), NoWaiting():
        loss_sum(model, batch).item()


def test_long_examples_use_torchs_attention(tiny_model: Path, monkeypatch: pytest.MonkeyPatch):
    batch = collate([example(40, 1), example(25, 2)], CPU)
    base = packed(tiny_model)
    expected = loss_sum(base, batch), gradients(base, batch)
    monkeypatch.setattr("services.trainer.kernels.attention.SHORT_ROW", 8)
    torch.testing.assert_close((loss_sum(base, batch), gradients(base, batch)), expected)


def test_generation_is_unchanged(tiny_model: Path):
    base, plain = packed(tiny_model), load_base(tiny_model, torch.float32)
    # The padding on the left needs a mask. With a cache, one query attends to many keys.
    ids = torch.arange(3, 19).view(2, 8)
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    options = {"attention_mask": mask, "max_new_tokens": 12, "do_sample": False}
    assert torch.equal(base.generate(ids, **options), plain.generate(ids, **options))
