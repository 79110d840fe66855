"""A 4-bit base, and gradient checkpointing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from bitsandbytes.nn.modules import Linear4bit

from domain.training.precision import Precision
from infrastructure.chat.chat_labels import Example
from services.trainer.batches import collate, loss_sum
from services.trainer.model import CPU, BaseChanged, checkpoint_activations, load_base
from tests.services.trainer.segments import Trainer


def batch(rows: int, tokens: int):
    ids = tuple(range(tokens))
    return collate([Example(ids, ids)] * rows, CPU)


def test_qlora_learns(trainer: Trainer) -> None:
    run = trainer.train({"epochs": 4, "target_modules": ["q_proj", "down_proj"]}, precision="nf4")
    assert any("NF4" in line for line in run.lines)
    assert run.evaluation.loss_after < run.evaluation.loss_before - 0.1
    full = trainer.train({"epochs": 1}).evaluation
    assert run.evaluation.loss_before != full.loss_before
    assert run.evaluation.loss_before == pytest.approx(full.loss_before, abs=0.05)


def test_a_4_bit_base_evaluates_with_the_weights_it_trains_with(tiny_model: Path) -> None:
    """bitsandbytes repacks the weights for inference on some CPUs."""
    base = load_base(tiny_model, torch.float32, precision=Precision.NF4)
    layers = [module for module in base.modules() if isinstance(module, Linear4bit)]
    assert len(layers) == 2 * 7
    training = loss_sum(base.train(), batch(2, 40)).item()
    with torch.inference_mode():
        inference = loss_sum(base.eval(), batch(2, 40)).item()
    assert inference == pytest.approx(training, rel=1e-3)


def test_gradient_checkpointing_changes_no_loss(trainer: Trainer) -> None:
    plain, saving = (
        trainer.train({"dropout": 0.1}, gradient_checkpointing=on) for on in (False, True)
    )
    assert saving.losses == plain.losses
    assert saving.evaluation == plain.evaluation


@pytest.mark.filterwarnings("error::FutureWarning")
def test_gradient_checkpointing_keeps_no_activations(tiny_model: Path) -> None:
    """It uses no deprecated calls either."""

    def kept_bytes(base) -> int:
        sizes: list[int] = []

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            sizes.append(tensor.nbytes)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss_sum(base.train(), batch(1, 100))
        return sum(sizes)

    base = load_base(tiny_model, torch.float32)
    without = kept_bytes(base)
    checkpoint_activations(base)
    assert kept_bytes(base) < 0.6 * without


def test_a_changed_base_is_refused(trainer: Trainer) -> None:
    with pytest.raises(BaseChanged, match="models/tiny"):
        trainer.train(base_manifest_sha256="0" * 64)
    approved = trainer.artifacts.manifest("models/tiny").sha256
    assert trainer.train({"epochs": 1}, base_manifest_sha256=approved).steps
