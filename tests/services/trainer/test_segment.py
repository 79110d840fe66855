"""A segment on the tiny model, within the test's own process."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

from domain.estimating.memory import gib
from domain.jobs.lifecycle import SegmentEnd
from domain.training.evaluation import EvaluationResult
from domain.training.phases import Phase
from domain.training.precision import Dtype
from infrastructure.artifacts import ArtifactCorrupt, Artifacts
from infrastructure.chat_template import CHAT_TEMPLATE
from infrastructure.reports import SegmentSpec
from infrastructure.training_environment import ENVIRONMENT, TrainingEnvironment
from services.model_libraries import choose_dtype
from services.trainer import checkpoint, evaluation, segment, training
from services.trainer.clock import SegmentClock
from services.trainer.dataset import DatasetTooSmall
from services.trainer.failures import LossDiverged
from services.trainer.lease import Lease
from services.trainer.model import CPU, TargetModulesNotFound, load_base
from services.trainer.tensor_file import TensorFile
from tests.builders.tiny_model import make_tiny_model
from tests.services.trainer.conftest import SpecMaker, chats
from tests.services.trainer.notes import Notes, resuming


def losses(notes: Notes) -> list[float]:
    return [measured.train_loss for measured in notes.steps]


def smoothed(notes: Notes) -> list[float]:
    return [measured.smoothed_loss for measured in notes.steps]


def test_a_whole_run_reports_learns_and_registers_plain_peft(
    run, make_spec: SpecMaker, artifacts: Artifacts, tiny_model: Path, tmp_path: Path
) -> None:
    spec = make_spec({"epochs": 4, "save_steps": 8})
    notes = run(spec)
    assert notes.phases == ["model_load", "dataset_prep", "training", "evaluation", "register"]
    # 20 chats, one held out, four examples a step.
    assert notes.fields["train_examples"] == 19
    assert notes.fields["eval_examples"] == 1
    assert notes.fields["step"] == notes.fields["total_steps"] == 20
    assert [saved.step for saved in notes.checkpoints] == [8, 16, 20]
    assert notes.fields["trained_tokens"] == sum(measured.tokens for measured in notes.steps)
    evaluation: EvaluationResult = notes.fields["evaluation"]
    assert evaluation.loss_after < evaluation.loss_before - 0.1
    assert notes.fields["adapter_manifest_sha256"] == artifacts.manifest(spec.adapter_prefix).sha256

    artifacts.get_directory(spec.adapter_prefix, tmp_path / "adapter")
    model = PeftModel.from_pretrained(load_base(tiny_model, torch.float32), tmp_path / "adapter")
    assert model.peft_config["default"].base_model_name_or_path == "tiny"
    assert str(tmp_path) not in (tmp_path / "adapter" / "adapter_config.json").read_text()


def test_an_adapter_has_its_training_environment(
    run, make_spec: SpecMaker, artifacts: Artifacts
) -> None:
    spec = make_spec({"epochs": 1})
    run(spec)
    content = artifacts.get(f"{spec.adapter_prefix}/{ENVIRONMENT}")
    environment = TrainingEnvironment.model_validate_json(content)
    assert environment.libraries["torch"] == version("torch")
    assert environment.device == "cpu"
    assert environment.dtype == str(choose_dtype(CPU)).removeprefix("torch.")


@pytest.mark.parametrize("dtype", Dtype)
def test_a_segment_computes_in_the_dtype_that_was_approved(
    run, make_spec: SpecMaker, artifacts: Artifacts, dtype: Dtype
) -> None:
    spec = make_spec({"epochs": 1}, dtype=dtype, precision=dtype.full, required_bytes=10**9)
    notes = run(spec)
    content = artifacts.get(f"{spec.adapter_prefix}/{ENVIRONMENT}")
    environment = TrainingEnvironment.model_validate_json(content)
    assert environment.dtype == {"bf16": "bfloat16", "float32": "float32"}[dtype]
    assert any(f"{gib(10**9):g} GiB" in line for line in notes.lines)


@pytest.mark.parametrize("save_steps", [1, 2, 3])
def test_the_loss_of_a_checkpoint_is_that_of_its_step(
    run, make_spec: SpecMaker, save_steps: int
) -> None:
    notes = run(make_spec({"epochs": 1, "save_steps": save_steps}))
    by_step = {measured.step: measured.train_loss for measured in notes.steps}
    assert notes.checkpoints
    for saved in notes.checkpoints:
        assert saved.train_loss == by_step[saved.step]


@pytest.mark.parametrize("stop_after", [3, 4, 7])
def test_a_resumed_run_equals_the_uninterrupted_run(
    run, make_spec: SpecMaker, artifacts: Artifacts, stop_after: int
) -> None:
    whole = make_spec({"save_steps": 4, "dropout": 0.1})
    expected = run(whole)
    first = make_spec({"save_steps": 4, "dropout": 0.1})
    stopped = run(first, stop_after=stop_after)
    assert stopped.fields["outcome"] is SegmentEnd.STOPPED
    assert stopped.checkpoints[-1].step == stop_after
    again = resuming(first, stopped.checkpoints[-1])
    resumed = run(again)
    assert losses(stopped) + losses(resumed) == losses(expected)
    assert smoothed(stopped) + smoothed(resumed) == smoothed(expected)
    assert resumed.fields["trained_tokens"] == expected.fields["trained_tokens"]
    assert resumed.fields["evaluation"] == expected.fields["evaluation"]
    assert _adapter(artifacts, again) == _adapter(artifacts, whole)


@pytest.mark.parametrize(("stop_in", "steps_done"), [(2, 0), (4, 1), (6, 2), (15, 5), (17, 6)])
def test_an_interrupted_step_changes_nothing(
    run, make_spec: SpecMaker, artifacts: Artifacts, stop_in: int, steps_done: int
) -> None:
    """A step has three batches or fewer, and cannot be stopped after the last."""
    chosen = {"gradient_accumulation": 3, "dropout": 0.1, "save_steps": 5}
    whole, first = make_spec(chosen), make_spec(chosen)
    expected, stopped = run(whole), run(first, stop_in=stop_in)
    assert stopped.fields["outcome"] is SegmentEnd.STOPPED
    assert [measured.step for measured in stopped.steps] == list(range(1, steps_done + 1))
    assert stopped.fields["step"] == steps_done
    saved = stopped.checkpoints[-1] if stopped.checkpoints else None
    assert (saved.step if saved else 0) == steps_done
    again = resuming(first, *stopped.checkpoints[-1:])
    resumed = run(again)
    assert losses(stopped) + losses(resumed) == losses(expected)
    assert smoothed(stopped) + smoothed(resumed) == smoothed(expected)
    assert resumed.fields["trained_tokens"] == expected.fields["trained_tokens"]
    assert resumed.fields["evaluation"] == expected.fields["evaluation"]
    assert _adapter(artifacts, again) == _adapter(artifacts, whole)


def test_a_lease_extended_during_a_save_continues_exactly(
    run, make_spec: SpecMaker, artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = {"gradient_accumulation": 3, "dropout": 0.1}
    whole, spec = make_spec(chosen), make_spec(chosen, paid_seconds=1000)
    expected = run(whole)

    def saved(notes: Notes, checkpoint: object) -> None:
        notes.checkpoints.append(checkpoint)  # type: ignore[arg-type]
        notes.lease.paid_seconds = 10_000

    def lapse(lease: Lease) -> None:
        lease.clock = SegmentClock(lease.paid_seconds + 0.1)

    monkeypatch.setattr(Notes, "saved", saved)
    monkeypatch.setattr(Lease, "request_stop", lapse)
    notes = run(spec, stop_in=4)
    assert [checkpoint.step for checkpoint in notes.checkpoints] == [1, 8]
    assert losses(notes) == losses(expected)
    assert _adapter(artifacts, spec) == _adapter(artifacts, whole)


def _adapter(artifacts: Artifacts, spec: SegmentSpec) -> str:
    files = artifacts.manifest(spec.adapter_prefix).files
    return next(file.sha256 for file in files if file.path == "adapter_model.safetensors")


def test_the_end_of_paid_time_between_two_steps_saves_the_step(run, make_spec: SpecMaker) -> None:
    notes = run(make_spec(paid_seconds=1000), lapse_after=3)
    assert notes.fields["outcome"] is SegmentEnd.LEASE_ENDED
    assert [saved.step for saved in notes.checkpoints] == [notes.fields["step"]] == [3]
    assert notes.checkpoints[0].elapsed_seconds >= 1000


def test_a_stop_before_the_first_step_leaves_no_checkpoint(run, make_spec: SpecMaker) -> None:
    spec = make_spec(paid_seconds=10)
    notes = run(spec, age_seconds=10)
    assert notes.fields["outcome"] is SegmentEnd.LEASE_ENDED
    assert not notes.checkpoints
    assert notes.phases == []


def test_a_stop_after_the_last_step_leaves_only_the_evaluation(run, make_spec: SpecMaker) -> None:
    spec = make_spec()
    notes = run(spec, stop_after=10)
    assert notes.phases[-1] == "training"
    assert notes.checkpoints[-1].step == notes.fields["total_steps"] == 10
    resumed = run(resuming(spec, notes.checkpoints[-1]))
    assert resumed.phases[-1] == "register"
    assert not resumed.steps
    assert not resumed.checkpoints


def test_a_stop_within_the_evaluation_resumes_at_the_last_checkpoint(
    run, make_spec: SpecMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, looks = evaluation.collate, []

    def stop_in_the_first_batch(*arguments: Any) -> Any:
        looks.append(arguments)
        stopping[0]()
        return real(*arguments)

    stopping: list[Any] = []
    real_enter = Notes.enter

    def enter(notes: Notes, phase: Phase) -> None:
        stopping[:] = [notes.lease.request_stop]
        real_enter(notes, phase)

    spec = make_spec()
    with monkeypatch.context() as patch:
        patch.setattr(Notes, "enter", enter)
        patch.setattr(evaluation, "collate", stop_in_the_first_batch)
        notes = run(spec)
    assert notes.fields["outcome"] is SegmentEnd.STOPPED
    assert notes.phases[-1] == "evaluation"
    assert len(looks) == 1, "the batch with the adapter was not begun"
    assert notes.checkpoints[-1].step == notes.fields["total_steps"]
    resumed = run(resuming(spec, notes.checkpoints[-1]))
    assert resumed.fields["evaluation"] == run(make_spec()).fields["evaluation"]


def test_an_interrupted_write_keeps_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run, make_spec: SpecMaker
) -> None:
    def breaks(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(TensorFile, "write", breaks)
    spec = make_spec({"save_steps": 1})
    with pytest.raises(OSError, match="no space"):
        run(spec)
    assert not Artifacts((tmp_path / "artifacts").as_uri()).list(spec.checkpoint_prefix)


def test_a_checkpoint_of_another_job_is_refused(run, make_spec: SpecMaker) -> None:
    saved = run(make_spec(), stop_after=1).checkpoints[-1]
    with pytest.raises(checkpoint.CheckpointMismatch, match="hyperparameters"):
        run(make_spec({"lora_r": 4}, resume_from=(saved,)))


def test_accumulation_does_not_change_a_step(run, make_spec: SpecMaker) -> None:
    """Twenty examples a step, in fours or at once: equal gradients except for rounding."""
    halves = run(make_spec({"dropout": 0.0, "micro_batch_size": 4, "gradient_accumulation": 5}))
    whole = run(make_spec({"dropout": 0.0, "micro_batch_size": 20, "gradient_accumulation": 1}))
    base = next(line for line in halves.lines if line.startswith("base tiny"))
    tolerance = 2e-2 if "bfloat16" in base else 1e-4
    assert losses(halves) == pytest.approx(losses(whole), abs=tolerance)


def test_a_nan_loss_ends_the_run_as_diverged(
    run, make_spec: SpecMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = training.loss_sum
    monkeypatch.setattr(training, "loss_sum", lambda *a: real(*a) * float("nan"))
    with pytest.raises(LossDiverged, match="nan"):
        run(make_spec())


def test_an_unknown_target_module_is_named(run, make_spec: SpecMaker) -> None:
    with pytest.raises(TargetModulesNotFound, match=r"c_attn.*q_proj"):
        run(make_spec({"target_modules": ["q_proj", "c_attn"]}))


def test_a_changed_dataset_is_refused(run, make_spec: SpecMaker) -> None:
    with pytest.raises(ArtifactCorrupt):
        run(make_spec(dataset_sha256="0" * 64))


def test_a_dataset_needs_two_conversations(run, make_spec: SpecMaker) -> None:
    with pytest.raises(DatasetTooSmall):
        run(make_spec(rows=chats(1)))
    assert run(make_spec(rows=chats(2))).fields["train_examples"] == 1


def test_a_missing_chat_template_is_logged_and_the_fallback_stored(
    run, make_spec: SpecMaker, artifacts: Artifacts, tmp_path: Path
) -> None:
    artifacts.put_directory("models/plain", make_tiny_model(tmp_path / "plain", chat_template=None))
    spec = make_spec(base_ref="models/plain", base_model="plain")
    notes = run(spec)
    assert any(CHAT_TEMPLATE in line for line in notes.warnings)
    assert "im_start" in artifacts.get(f"{spec.adapter_prefix}/chat_template.jinja").decode()


def test_a_base_without_packed_attention_learns_the_same(
    run, make_spec: SpecMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = run(make_spec({"dropout": 0.0}))
    monkeypatch.setattr(segment, "pack_if_able", lambda base: None)
    assert losses(run(make_spec({"dropout": 0.0}))) == pytest.approx(losses(expected), abs=2e-3)
    dropped = make_spec({"dropout": 0.1})
    stopped = run(dropped, stop_after=3)
    resumed = run(resuming(dropped, stopped.checkpoints[-1]))
    assert losses(stopped) + losses(resumed) == losses(run(make_spec({"dropout": 0.1})))
