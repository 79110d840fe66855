"""The memory of a micro-batch for its backward pass, compared with the memory fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from domain.estimating.footprint import FLOAT32, Layout, activation_bytes
from domain.training.hyperparameters import Hyperparameters
from infrastructure.chat.chat_labels import Example
from services.model_import.importer import shape_of
from services.trainer.batches import collate, loss_sum
from services.trainer.kernels import attention
from services.trainer.kernels.lora import Dropout
from services.trainer.model import CPU, attach_adapter, checkpoint_activations, load_base
from services.trainer.packing import pack_if_able
from tests.builders.tiny_model import TINY_SHAPE

LENGTH = 64


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_micro_batch_keeps_no_more_than_the_memory_fit_predicts(
    tiny_model: Path, checkpointing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float32, with fused attention and a loss on every token: the worst case on a GPU."""
    monkeypatch.setattr(attention, "SHORT_ROW", 0)
    chosen = Hyperparameters(micro_batch_size=4, target_modules=tuple(TINY_SHAPE.linears))
    base = load_base(tiny_model, torch.float32)
    pack_if_able(base)
    if checkpointing:
        checkpoint_activations(base)
    shape = shape_of(base)
    model = attach_adapter(base, chosen, "tiny").train()
    ids = tuple(range(5, 5 + LENGTH))
    batch = collate([Example(ids, ids)] * chosen.micro_batch_size, CPU)
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with Dropout(model).drawn(batch.tokens, torch.float32, CPU), hooks:
        loss = loss_sum(model, batch)
    predicted = activation_bytes(Layout(shape, chosen, LENGTH, 1), checkpointing, FLOAT32)
    assert loss.requires_grad
    assert 0.1 * predicted < sum(kept.values()) <= predicted
