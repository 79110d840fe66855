"""A segment on the tiny model, within the test's own process."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

from domain.core.quantities import gib
from domain.jobs.lifecycle import SegmentEnd
from domain.training.hyperparameters import Hyperparameters
from domain.training.phases import SUPERVISED_PHASES
from domain.training.precision import Dtype, Precision
from infrastructure.artifacts.store import ArtifactCorrupt
from infrastructure.chat.chat_template import CHAT_TEMPLATE
from infrastructure.training.environment import ENVIRONMENT, TrainingEnvironment
from services.model_libraries import choose_dtype
from services.trainer import checkpoint, objectives, segment
from services.trainer.clock import SegmentClock
from services.trainer.dataset import DatasetTooSmall
from services.trainer.failures import LossDiverged
from services.trainer.lease import Lease
from services.trainer.model import CPU, TargetModulesNotFound, load_base
from tests.builders.tiny_model import chats, make_tiny_model
from tests.services.trainer.segments import Run, Trainer, resuming


def test_a_whole_run_reports_learns_and_registers_plain_peft(
    trainer: Trainer, tiny_model: Path, tmp_path: Path
) -> None:
    spec = trainer.spec({"epochs": 4, "save_steps": 8})
    run = trainer.run(spec)
    assert run.phases == [phase.value for phase in SUPERVISED_PHASES[1:]]
    # 20 chats, one held out, four examples per step.
    assert (run.fields["train_examples"], run.fields["eval_examples"]) == (19, 1)
    assert run.fields["step"] == run.fields["total_steps"] == 20
    assert run.saved_steps == [8, 16, 20]
    assert all(saved.train_loss == run.losses[saved.step - 1] for saved in run.checkpoints)
    assert run.fields["trained_tokens"] == sum(step.tokens for step in run.steps)
    assert run.evaluation.loss_after < run.evaluation.loss_before - 0.1
    manifest = trainer.artifacts.manifest(spec.adapter_prefix)
    assert run.fields["adapter_manifest_sha256"] == manifest.sha256

    directory = tmp_path / "adapter"
    trainer.artifacts.get_directory(spec.adapter_prefix, directory)
    model = PeftModel.from_pretrained(load_base(tiny_model, torch.float32), directory)
    assert model.peft_config["default"].base_model_name_or_path == "tiny"
    assert str(tmp_path) not in (directory / "adapter_config.json").read_text()


@pytest.mark.full
@pytest.mark.parametrize("dtype", [None, *Dtype])
def test_an_adapter_has_its_training_environment_with_the_approved_dtype(
    trainer: Trainer, dtype: Dtype | None
) -> None:
    fields = {"dtype": dtype, "precision": dtype.full} if dtype else {}
    spec = trainer.spec({"epochs": 1}, required_bytes=10**9, **fields)
    run = trainer.run(spec)
    content = trainer.artifacts.get(f"{spec.adapter_prefix}/{ENVIRONMENT}")
    environment = TrainingEnvironment.model_validate_json(content)
    assert (environment.libraries["torch"], environment.device) == (version("torch"), "cpu")
    names = {None: str(choose_dtype(CPU)).removeprefix("torch."), Dtype.BF16: "bfloat16"}
    assert environment.dtype == names.get(dtype, "float32")
    assert any(f"{gib(10**9):g} GiB" in line for line in run.lines)


CHECKPOINTING = {"precision": "nf4", "gradient_checkpointing": True}


@pytest.mark.parametrize(
    ("stop", "steps_done", "fields"),
    [
        ({"stop_after": 3}, 3, {}),
        *(pytest.param({"stop_after": step}, step, {}, marks=pytest.mark.full) for step in (4, 7)),
        # A step has three batches or fewer, and cannot be stopped after the last.
        ({"stop_in": 4}, 1, {}),
        *(
            pytest.param({"stop_in": batch}, step, {}, marks=pytest.mark.full)
            for batch, step in ((2, 0), (15, 5), (17, 6))
        ),
        pytest.param({"stop_after": 3}, 3, {"precision": "nf4"}, marks=pytest.mark.full),
        ({"stop_after": 3}, 3, CHECKPOINTING),
        ({"stop_in": 4}, 1, {"use_dora": True}),
        pytest.param(
            {"stop_after": 3}, 3, {"use_dora": True, **CHECKPOINTING}, marks=pytest.mark.full
        ),
    ],
)
def test_a_resumed_run_equals_the_uninterrupted_run(
    trainer: Trainer, stop: dict[str, Any], steps_done: int, fields: dict[str, Any]
) -> None:
    chosen = {"gradient_accumulation": 3, "dropout": 0.1, "save_steps": 4}
    tuned = {name: fields[name] for name in fields if name in Hyperparameters.model_fields}
    chosen, fields = chosen | tuned, {n: fields[n] for n in fields if n not in tuned}
    whole, spec = trainer.spec(chosen, **fields), trainer.spec(chosen, **fields)
    expected, stopped = trainer.run(whole), trainer.run(spec, **stop)
    assert stopped.outcome is SegmentEnd.STOPPED
    assert len(stopped.steps) == stopped.fields["step"] == steps_done
    assert (stopped.saved_steps or [0])[-1] == steps_done
    resumed = trainer.run(resuming(spec, *stopped.checkpoints[-1:]))
    assert trainer.result(spec, stopped, resumed) == trainer.result(whole, expected)


@pytest.mark.full
def test_a_lease_extended_during_a_save_continues_exactly(trainer: Trainer) -> None:
    chosen = {"gradient_accumulation": 3, "dropout": 0.1}
    whole, spec = trainer.spec(chosen), trainer.spec(chosen, paid_seconds=1000)
    expected = trainer.run(whole)

    def save_and_extend(run: Run, saved: object) -> None:
        run.checkpoints.append(saved)  # type: ignore[arg-type]
        run.lease.paid_seconds = 10_000

    def lapse(lease: Lease) -> None:
        lease.clock = SegmentClock(lease.paid_seconds + 0.1)

    trainer.patch.setattr(Run, "saved", save_and_extend)
    trainer.patch.setattr(Lease, "request_stop", lapse)
    run = trainer.run(spec, stop_in=4)
    assert run.saved_steps == [1, 8]
    assert trainer.result(spec, run) == trainer.result(whole, expected)


def test_the_end_of_paid_time_between_two_steps_saves_the_step(trainer: Trainer) -> None:
    run = trainer.run(trainer.spec(paid_seconds=1000), lapse_after=3)
    assert run.outcome is SegmentEnd.LEASE_ENDED
    assert run.saved_steps == [run.fields["step"]] == [3]
    assert run.checkpoints[0].elapsed_seconds >= 1000


def test_a_stop_before_the_first_step_leaves_no_checkpoint(trainer: Trainer) -> None:
    run = trainer.run(trainer.spec(paid_seconds=10), age_seconds=10)
    assert run.outcome is SegmentEnd.LEASE_ENDED
    assert (run.checkpoints, run.phases) == ([], [])


def test_a_stop_after_the_last_step_leaves_only_the_evaluation(trainer: Trainer) -> None:
    spec = trainer.spec()
    run = trainer.run(spec, stop_after=10)
    assert run.phases[-1] == "training"
    assert run.saved_steps[-1] == run.fields["total_steps"] == 10
    resumed = trainer.run(resuming(spec, run.checkpoints[-1]))
    assert resumed.phases[-1] == "register"
    assert (resumed.steps, resumed.checkpoints) == ([], [])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hyperparameters", Hyperparameters(lora_r=4)),
        ("precision", Precision.NF4),
        ("base_model", "other"),
        ("validation_sha256", "0" * 64),
    ],
)
def test_a_checkpoint_of_another_job_is_refused(trainer: Trainer, name: str, value: Any) -> None:
    spec = trainer.spec()
    (saved,) = trainer.run(spec, stop_after=1).checkpoints
    again = resuming(spec, saved).model_copy(update={name: value})
    with pytest.raises(checkpoint.CheckpointMismatch, match=name):
        trainer.run(again)


@pytest.mark.full
def test_accumulation_does_not_change_a_step(trainer: Trainer) -> None:
    """Twenty examples a step, in fours or at once: equal gradients except for rounding."""
    fours, whole = (
        trainer.train({"dropout": 0.0, "micro_batch_size": size, "gradient_accumulation": times})
        for size, times in ((4, 5), (20, 1))
    )
    in_bf16 = any("in bfloat16" in line for line in fours.lines)
    tolerance = 2e-2 if in_bf16 else 1e-4
    assert fours.losses == pytest.approx(whole.losses, abs=tolerance)


def test_a_nan_loss_ends_the_run_as_diverged(trainer: Trainer) -> None:
    real = objectives.loss_sum
    trainer.patch.setattr(objectives, "loss_sum", lambda *a: real(*a) * float("nan"))
    with pytest.raises(LossDiverged, match="nan"):
        trainer.train()


@pytest.mark.parametrize("precision", ["bf16", "nf4"])
def test_an_unknown_target_module_is_named(trainer: Trainer, precision: str) -> None:
    with pytest.raises(TargetModulesNotFound, match=r"c_attn.*q_proj"):
        trainer.train({"target_modules": ["q_proj", "c_attn"]}, precision=precision)


def test_a_changed_dataset_is_refused(trainer: Trainer) -> None:
    with pytest.raises(ArtifactCorrupt):
        trainer.train(dataset_sha256="0" * 64)


def test_a_dataset_needs_two_conversations(trainer: Trainer) -> None:
    with pytest.raises(DatasetTooSmall):
        trainer.train(rows=chats(1))
    assert trainer.train(rows=chats(2)).fields["train_examples"] == 1


@pytest.mark.full
def test_a_missing_chat_template_is_logged_and_the_fallback_stored(trainer: Trainer) -> None:
    model = make_tiny_model(trainer.folder / "plain", chat_template=None)
    trainer.artifacts.put_directory("models/plain", model)
    spec = trainer.spec(base_ref="models/plain", base_model="plain")
    run = trainer.run(spec)
    assert run.warns(CHAT_TEMPLATE)
    assert run.checkpoints != []
    for ref in (spec.adapter_prefix, *(saved.ref for saved in run.checkpoints)):
        assert b"im_start" in trainer.artifacts.get(f"{ref}/{CHAT_TEMPLATE}")


@pytest.mark.full
def test_a_base_without_packed_attention_learns_the_same(trainer: Trainer) -> None:
    expected = trainer.train({"dropout": 0.0}).losses
    trainer.patch.setattr(segment, "pack_if_able", lambda base: None)
    assert trainer.train({"dropout": 0.0}).losses == pytest.approx(expected, abs=2e-3)
