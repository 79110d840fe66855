"""A job that continues the adapter of an earlier job."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from domain.training.checkpoint import SavedCheckpoint
from infrastructure.training.reports import SegmentSpec
from services.trainer.model import StartLost
from tests.services.trainer.segments import Trainer, resuming

pytestmark = pytest.mark.full

ONE_STEP_AN_EPOCH: dict[str, Any] = {
    "epochs": 2,
    "micro_batch_size": 19,
    "gradient_accumulation": 1,
    "dropout": 0.0,
    "warmup_share": 0.0,
    "save_steps": 1,
}
"""All 19 training examples are in each step, so the loss of a step depends only on the weights."""


def continuing(
    trainer: Trainer, saved: SavedCheckpoint, hyperparameters: Mapping[str, Any] = {}, **fields: Any
) -> SegmentSpec:
    """Return the first segment of another job, which continues a checkpoint."""
    start = {"start_ref": saved.ref, "start_manifest_sha256": saved.manifest_sha256}
    return trainer.spec(ONE_STEP_AN_EPOCH | hyperparameters, **start | fields)


def test_the_first_loss_is_the_one_that_the_earlier_job_would_have_had_next(
    trainer: Trainer,
) -> None:
    parent = trainer.run(trainer.spec(ONE_STEP_AN_EPOCH))
    child = trainer.run(continuing(trainer, parent.checkpoints[0]))
    assert child.losses[0] == pytest.approx(parent.losses[1], abs=1e-6)
    assert child.losses[0] != pytest.approx(parent.losses[0], abs=1e-3)
    assert any("weights of an earlier model" in line for line in child.lines)


def test_a_resumed_job_keeps_its_own_weights(trainer: Trainer) -> None:
    parent = trainer.run(trainer.spec(ONE_STEP_AN_EPOCH))
    spec = continuing(trainer, parent.checkpoints[0])
    whole = trainer.run(spec)
    rest = trainer.run(resuming(spec, whole.checkpoints[0]))
    assert rest.losses == whole.losses[1:]


def test_a_changed_or_missing_adapter_fails_the_job(trainer: Trainer) -> None:
    parent = trainer.run(trainer.spec(ONE_STEP_AN_EPOCH))
    saved = parent.checkpoints[0]
    with pytest.raises(StartLost, match="another shape"):
        trainer.run(continuing(trainer, saved, {"lora_r": 4}))
    with pytest.raises(StartLost, match="deleted or damaged"):
        trainer.run(continuing(trainer, saved, start_manifest_sha256="0" * 64))
    trainer.artifacts.delete_directory(saved.ref)
    with pytest.raises(StartLost, match="deleted or damaged"):
        trainer.run(continuing(trainer, saved))


def test_a_job_whose_only_checkpoint_is_damaged_starts_again_from_the_earlier_model(
    trainer: Trainer,
) -> None:
    parent = trainer.run(trainer.spec(ONE_STEP_AN_EPOCH))
    spec = continuing(trainer, parent.checkpoints[0])
    whole = trainer.run(spec)
    state = whole.checkpoints[0].state
    assert state is not None
    changed = {"state": state.model_copy(update={"optimizer": "0" * 64})}
    again = trainer.run(resuming(spec, whole.checkpoints[0].model_copy(update=changed)))
    assert "resumed" not in again.fields
    assert again.losses == whole.losses
