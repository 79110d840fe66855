"""A 4-bit base, and gradient checkpointing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from bitsandbytes.nn.modules import Linear4bit
from peft import PeftModel

from domain.estimating.estimate import Precision
from domain.training.evaluation import EvaluationResult
from infrastructure.artifacts import Artifacts
from infrastructure.chat_labels import Example
from services.trainer.batches import collate, loss_sum
from services.trainer.checkpoint import CheckpointMismatch
from services.trainer.model import BaseChanged, TargetModulesNotFound, load_base
from tests.services.trainer.conftest import SpecMaker
from tests.services.trainer.notes import Notes, resuming


def losses(notes: Notes) -> list[float]:
    return [measured.train_loss for measured in notes.steps]


def test_qlora_learns_and_registers_plain_peft(
    run, make_spec: SpecMaker, artifacts: Artifacts, tiny_model: Path, tmp_path: Path
) -> None:
    spec = make_spec({"epochs": 4, "target_modules": ["q_proj", "down_proj"]}, precision="nf4")
    notes = run(spec)
    assert any("NF4" in line for line in notes.lines)
    evaluation: EvaluationResult = notes.fields["evaluation"]
    assert evaluation.loss_after < evaluation.loss_before - 0.1
    full = run(make_spec({"epochs": 1})).fields["evaluation"]
    assert evaluation.loss_before != full.loss_before
    assert evaluation.loss_before == pytest.approx(full.loss_before, abs=0.05)

    artifacts.get_directory(spec.adapter_prefix, tmp_path / "adapter")
    base = load_base(tiny_model, torch.float32)
    plain = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    assert plain.peft_config["default"].base_model_name_or_path == "tiny"


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_qlora_resumes_exactly(run, make_spec: SpecMaker, gradient_checkpointing: bool) -> None:
    fields = {"precision": "nf4", "gradient_checkpointing": gradient_checkpointing}
    expected = run(make_spec({"dropout": 0.1}, **fields))
    spec = make_spec({"dropout": 0.1}, **fields)
    stopped = run(spec, stop_after=3)
    again = run(resuming(spec, stopped.checkpoints[-1]))
    assert losses(stopped) + losses(again) == losses(expected)
    assert again.fields["evaluation"] == expected.fields["evaluation"]


def test_a_checkpoint_of_another_precision_is_refused(run, make_spec: SpecMaker) -> None:
    spec = make_spec()
    again = resuming(spec, run(spec, stop_after=1).checkpoints[-1])
    with pytest.raises(CheckpointMismatch, match="precision"):
        run(again.model_copy(update={"precision": Precision.NF4}))


def test_a_4_bit_base_evaluates_with_the_weights_it_trains_with(tiny_model: Path) -> None:
    """bitsandbytes repacks the weights for inference on some CPUs."""
    base = load_base(tiny_model, torch.float32, precision=Precision.NF4)
    layers = [module for module in base.modules() if isinstance(module, Linear4bit)]
    assert len(layers) == 2 * 7
    tokens = tuple(range(40))
    batch = collate([Example(tokens, tokens)] * 2, torch.device("cpu"))
    training = loss_sum(base.train(), batch).item()
    with torch.inference_mode():
        inference = loss_sum(base.eval(), batch).item()
    assert inference == pytest.approx(training, rel=1e-3)


def test_gradient_checkpointing_changes_no_loss(run, make_spec: SpecMaker) -> None:
    chosen = {"dropout": 0.1}
    plain, saving = run(make_spec(chosen)), run(make_spec(chosen, gradient_checkpointing=True))
    assert losses(saving) == losses(plain)
    assert saving.fields["evaluation"] == plain.fields["evaluation"]


@pytest.mark.filterwarnings("error::FutureWarning")
def test_gradient_checkpointing_keeps_no_activations(tiny_model: Path) -> None:
    """Bytes kept for the backward pass, with and without it; without deprecated calls."""
    from services.trainer.model import checkpoint_activations

    def held(base) -> int:
        sizes: list[int] = []

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            sizes.append(tensor.numel() * tensor.element_size())
            return tensor

        tokens = tuple(range(100))
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss_sum(base.train(), collate([Example(tokens, tokens)], torch.device("cpu")))
        return sum(sizes)

    base = load_base(tiny_model, torch.float32)
    without = held(base)
    checkpoint_activations(base)
    assert held(base) < 0.6 * without


def test_a_target_module_is_found_in_a_4_bit_base(run, make_spec: SpecMaker) -> None:
    with pytest.raises(TargetModulesNotFound, match=r"c_attn.*q_proj"):
        run(make_spec({"target_modules": ["c_attn"]}, precision="nf4"))


def test_a_changed_base_is_refused(run, make_spec: SpecMaker, artifacts: Artifacts) -> None:
    with pytest.raises(BaseChanged, match="models/tiny"):
        run(make_spec(base_manifest_sha256="0" * 64))
    approved = artifacts.manifest("models/tiny").sha256
    assert run(make_spec({"epochs": 1}, base_manifest_sha256=approved)).steps
