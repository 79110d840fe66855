"""Resuming from the newest intact checkpoint, certified by the event log."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from domain.jobs.failures import FailureClass
from domain.training.checkpoint import ModeDifference, RejectionReason, SavedCheckpoint
from domain.training.phases import Phase
from infrastructure.artifacts.store import MANIFEST, Artifacts
from infrastructure.chat.chat_labels import IGNORED, Example
from services.scheduler.model_card import RESUME_FILES
from services.trainer import checkpoint, reference, segment, unsent
from services.trainer import plan as plan_module
from services.trainer.checkpoint import CheckpointMismatch
from services.trainer.checkpoint_loader import CheckpointLoader
from services.trainer.failures import classify
from services.trainer.plan import Plan, content_sha256, data_position_sha256
from services.trainer.state import TrainingState
from services.trainer.tensor_file import TensorFile
from tests.builders.next_version import UNKNOWN
from tests.services.trainer.segments import Run, Trainer, resuming

pytestmark = pytest.mark.full

CHOSEN = {"save_steps": 2, "dropout": 0.1}


class Stopped:
    """A job that stopped after step 5, with checkpoints of steps 4 and 5, and a whole run."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self.spec = trainer.spec(CHOSEN)
        self.whole = trainer.train(CHOSEN)
        *_, self.older, self.newest = trainer.run(self.spec, stop_after=5).checkpoints

    def resume(self, *saved: SavedCheckpoint) -> Run:
        return self._trainer.run(resuming(self.spec, *saved))


@pytest.fixture
def stopped(trainer: Trainer) -> Stopped:
    return Stopped(trainer)


@pytest.fixture
def rejections(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return rejected refs, also of a segment that fails."""
    refs: list[str] = []
    reject = CheckpointLoader._reject
    monkeypatch.setattr(
        CheckpointLoader,
        "_reject",
        lambda own, saved, damage: (refs.append(saved.ref), reject(own, saved, damage)),
    )
    return refs


def rejected(run: Run) -> list[tuple[str, str]]:
    return [(each.ref, each.reason.value) for each in run.fields.get("rejected", ())]


def damage(store: Artifacts, file: str) -> None:
    content = bytearray(store.get(file))
    content[len(content) // 2] ^= 1
    store.put(file, bytes(content))


def truncate(store: Artifacts, file: str) -> None:
    content = store.get(file)
    store.put(file, content[: len(content) // 2])


def test_a_resume_is_certified_by_the_hashes_that_were_saved(stopped: Stopped) -> None:
    saved = stopped.newest
    certificate = stopped.resume(saved).fields["resumed"]
    assert (certificate.step, certificate.ref, certificate.state) == (5, saved.ref, saved.state)
    assert (certificate.unchecked, certificate.differences, certificate.ranks) == ((), (), 1)


def test_a_checkpoint_has_the_files_that_the_model_card_names(trainer: Trainer) -> None:
    spec = trainer.spec()
    saved = trainer.run(spec).checkpoints[-1]
    adapter, files = (
        {file.path for file in trainer.artifacts.manifest(ref).files}
        for ref in (spec.adapter_prefix, saved.ref)
    )
    rare = {reference.FILE, unsent.FILE}  # in jobs with DPO, and with metrics that are not sent
    assert files - adapter == set(RESUME_FILES) - rare


@pytest.mark.parametrize(
    ("harm", "name", "reason"),
    [
        (damage, "optimizer.safetensors", RejectionReason.CORRUPT),
        (damage, "adapter_model.safetensors", RejectionReason.CORRUPT),
        (damage, "position.json", RejectionReason.CORRUPT),
        (truncate, "random.safetensors", RejectionReason.CORRUPT),
        (truncate, MANIFEST, RejectionReason.CORRUPT),
        (Artifacts.delete, "optimizer.safetensors", RejectionReason.CORRUPT),
        (Artifacts.delete, MANIFEST, RejectionReason.MISSING),
    ],
)
def test_a_damaged_checkpoint_is_replaced_by_the_one_before(
    trainer: Trainer, stopped: Stopped, harm: Callable, name: str, reason: RejectionReason
) -> None:
    harm(trainer.artifacts, f"{stopped.newest.ref}/{name}")
    again = stopped.resume(stopped.newest, stopped.older)
    assert rejected(again) == [(stopped.newest.ref, reason)]
    assert again.fields["resumed"].ref == stopped.older.ref
    assert again.losses == stopped.whole.losses[4:]
    assert again.warns(stopped.newest.ref)


@pytest.mark.parametrize("part", ["manifest", "weights", "optimizer", "random"])
def test_a_checkpoint_with_another_hash_than_the_event_log_is_rejected(
    trainer: Trainer, stopped: Stopped, part: str
) -> None:
    changed, reason = {"manifest_sha256": "0" * 64}, RejectionReason.CORRUPT
    if part != "manifest":
        assert stopped.newest.state is not None
        changed = {"state": stopped.newest.state.model_copy(update={part: "0" * 64})}
        reason = RejectionReason.STATE_DIFFERS
    other = stopped.newest.model_copy(update=changed)
    again = stopped.resume(other, stopped.older)
    assert rejected(again) == [(other.ref, reason)]
    assert again.losses == stopped.whole.losses[4:]
    restarted = trainer.run(resuming(resuming(stopped.spec), other))  # no other checkpoint
    assert "resumed" not in restarted.fields
    assert restarted.losses == stopped.whole.losses
    assert restarted.evaluation == stopped.whole.evaluation


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), FailureClass.OUT_OF_MEMORY),
        (OSError(errno.EIO, "Input/output error"), FailureClass.TRAINER_CRASHED),
    ],
)
def test_a_read_error_of_verified_files_is_the_machines_fault(
    trainer: Trainer,
    stopped: Stopped,
    rejections: list[str],
    error: Exception,
    failure: FailureClass,
) -> None:
    def fail(*_: object) -> None:
        raise error

    with trainer.patch.context() as patch:
        patch.setattr(TrainingState, "read", fail)
        with pytest.raises(type(error)) as caught:
            stopped.resume(stopped.newest, stopped.older)
    assert classify(caught.value, Phase.DATASET_PREP) is failure
    assert not rejections
    again = trainer.run(resuming(resuming(stopped.spec), stopped.newest))
    assert again.losses == stopped.whole.losses[5:]


def test_an_unreachable_store_rejects_no_checkpoint(
    trainer: Trainer, stopped: Stopped, rejections: list[str]
) -> None:
    pinned = {"base_manifest_sha256": trainer.artifacts.manifest("models/tiny").sha256}
    again = resuming(stopped.spec.model_copy(update=pinned), stopped.newest)
    (trainer.folder / "artifacts").rename(trainer.folder / "unmounted")
    with pytest.raises(FileNotFoundError, match="models/tiny"):
        trainer.run(again)
    assert not rejections


def other_optimizer(directory: Path) -> None:
    TensorFile.of({"sgd": torch.zeros(1)}, {}).write(directory / "optimizer.safetensors")


def position_with(**fields: object) -> Callable[[Path], object]:
    def change(directory: Path) -> None:
        path = directory / checkpoint.POSITION
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return change


@pytest.mark.parametrize(
    "change",
    [
        other_optimizer,
        position_with(schema_version=checkpoint.SCHEMA_VERSION + 1),
        position_with(step="many"),
    ],
)
def test_a_checkpoint_of_another_trainer_fails_the_job(
    trainer: Trainer,
    stopped: Stopped,
    rejections: list[str],
    change: Callable[[Path], object],
) -> None:
    other = trainer.rewritten(stopped.newest, change)
    with pytest.raises(CheckpointMismatch) as caught:
        stopped.resume(other, stopped.older)
    assert classify(caught.value, Phase.DATASET_PREP) is FailureClass.CHECKPOINT_MISMATCH
    assert not rejections


def test_a_checkpoint_with_fields_of_the_next_version_is_resumed(
    trainer: Trainer, stopped: Stopped, rejections: list[str]
) -> None:
    """For example after a return to the older version."""
    newer = trainer.rewritten(stopped.newest, position_with(**UNKNOWN))
    resumed = stopped.resume(newer)
    assert rejected(resumed) == rejections == []


@pytest.mark.parametrize("rendered", [False, True], ids=["event log", "rendering"])
def test_another_order_or_rendering_of_the_data_fails_the_job(
    trainer: Trainer, stopped: Stopped, rendered: bool
) -> None:
    """For example after an update of the tokenizer."""
    saved = stopped.newest
    if rendered:
        trainer.patch.setattr(plan_module, "content_sha256", lambda examples: "0" * 64)
    else:
        assert saved.state is not None
        state = saved.state.model_copy(update={"position": "0" * 64})
        saved = saved.model_copy(update={"state": state})
    with pytest.raises(CheckpointMismatch, match="order"):
        stopped.resume(saved)


def test_the_mode_of_the_checkpoint_is_kept_or_its_difference_reported(trainer: Trainer) -> None:
    trainer.patch.setattr(segment, "choose_dtype", lambda device: torch.float32)
    spec = trainer.spec(CHOSEN)
    before = trainer.run(spec, stop_after=5)
    trainer.patch.setattr(segment, "choose_dtype", lambda device: torch.bfloat16)
    trainer.patch.setattr("services.trainer.execution.PAD_MULTIPLE", 16)
    again = trainer.run(resuming(spec, before.checkpoints[-1]))
    assert any("float32" in line for line in again.lines)
    difference = ModeDifference(setting="pad_multiple", saved="8", now="16")
    assert again.fields["resumed"].differences == (difference,)
    assert again.warns("pad_multiple")


def test_the_data_position_does_not_depend_on_batches_and_ranks() -> None:
    plan = Plan(tuple(range(5, 45)), 2, micro_batch_size=2, gradient_accumulation=4, seed=1)
    here = data_position_sha256(plan, 3)
    assert data_position_sha256(replace(plan, gradient_accumulation=2, ranks=2), 3) == here
    others = [
        data_position_sha256(plan, 4),
        data_position_sha256(plan, 3 + plan.steps_per_epoch),
        data_position_sha256(replace(plan, seed=2), 3),
        data_position_sha256(replace(plan, lengths=(*plan.lengths[:-1], 99)), 3),
        data_position_sha256(replace(plan, content_sha256="0" * 64), 3),
    ]
    assert len({here, *others}) == 6
    assert data_position_sha256(plan, plan.total_steps) != here


def test_the_content_hash_covers_tokens_and_labels() -> None:
    example = Example((1, 2, 3), (IGNORED, 2, 3))
    others = [Example((1, 2, 4), (IGNORED, 2, 3)), Example((1, 2, 3), (IGNORED, IGNORED, 3))]
    hashes = {content_sha256([each]) for each in (example, *others)}
    assert len(hashes | {content_sha256([example, others[0]])}) == 4
