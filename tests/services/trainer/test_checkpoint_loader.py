"""Resuming from the newest intact checkpoint, certified by the event log."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from domain.jobs.failures import FailureClass
from domain.training.checkpoint import (
    ModeDifference,
    RejectionReason,
    ResumeCertificate,
)
from domain.training.phases import Phase
from infrastructure.artifacts import MANIFEST, Artifacts
from infrastructure.chat_labels import IGNORED, Example
from infrastructure.reports import SegmentSpec
from services.scheduler.model_card import RESUME_FILES
from services.trainer import checkpoint, segment
from services.trainer import plan as plan_module
from services.trainer.checkpoint import CheckpointMismatch
from services.trainer.checkpoint_loader import CheckpointLoader
from services.trainer.failures import classify
from services.trainer.plan import Plan, content_sha256, data_position_sha256
from services.trainer.state import TrainingState
from services.trainer.tensor_file import TensorFile
from tests.services.trainer.conftest import SpecMaker
from tests.services.trainer.notes import Notes, resuming

pytestmark = pytest.mark.full

CHOSEN = {"save_steps": 2, "dropout": 0.1}


def losses(notes: Notes) -> list[float]:
    return [measured.train_loss for measured in notes.steps]


def rejected(notes: Notes) -> list[tuple[str, str]]:
    return [(each.ref, each.reason.value) for each in notes.fields.get("rejected", ())]


@pytest.fixture
def stopped(run, make_spec: SpecMaker) -> tuple[SegmentSpec, Notes, Notes]:
    """A spec, its run until a stop after step 5, and the uninterrupted run."""
    spec = make_spec(CHOSEN)
    return spec, run(spec, stop_after=5), run(make_spec(CHOSEN))


def damage(artifacts: Artifacts, ref: str, name: str) -> None:
    content = bytearray(artifacts.get(f"{ref}/{name}"))
    content[len(content) // 2] ^= 1
    artifacts.put(f"{ref}/{name}", bytes(content))


def truncate(artifacts: Artifacts, ref: str, name: str) -> None:
    content = artifacts.get(f"{ref}/{name}")
    artifacts.put(f"{ref}/{name}", content[: len(content) // 2])


def delete(artifacts: Artifacts, ref: str, name: str) -> None:
    artifacts.delete(f"{ref}/{name}")


def test_a_resume_is_certified_by_the_hashes_that_were_saved(run, stopped) -> None:
    spec, before, _ = stopped
    saved = before.checkpoints[-1]
    again = run(resuming(spec, saved))
    certificate: ResumeCertificate = again.fields["resumed"]
    assert (certificate.step, certificate.ref) == (5, saved.ref)
    assert certificate.state == saved.state
    assert (certificate.unchecked, certificate.differences, certificate.ranks) == ((), (), 1)


def test_a_checkpoint_has_the_files_that_the_model_card_names(
    run, make_spec: SpecMaker, artifacts: Artifacts
) -> None:
    spec = make_spec()
    saved = run(spec).checkpoints[-1]
    adapter, files = (
        {file.path for file in artifacts.manifest(ref).files}
        for ref in (spec.adapter_prefix, saved.ref)
    )
    assert files - adapter == set(RESUME_FILES)


@pytest.mark.parametrize(
    ("harm", "name", "reason"),
    [
        (damage, "optimizer.safetensors", RejectionReason.CORRUPT),
        (damage, "adapter_model.safetensors", RejectionReason.CORRUPT),
        (damage, "position.json", RejectionReason.CORRUPT),
        (truncate, "random.safetensors", RejectionReason.CORRUPT),
        (truncate, MANIFEST, RejectionReason.CORRUPT),
        (delete, "optimizer.safetensors", RejectionReason.CORRUPT),
        (delete, MANIFEST, RejectionReason.MISSING),
    ],
)
def test_a_damaged_checkpoint_is_replaced_by_the_one_before(
    run, stopped, artifacts: Artifacts, harm: Callable, name: str, reason: RejectionReason
) -> None:
    spec, before, whole = stopped
    newest, older = before.checkpoints[-1], before.checkpoints[-2]
    harm(artifacts, newest.ref, name)
    again = run(resuming(spec, newest, older))
    assert rejected(again) == [(newest.ref, reason)]
    assert again.fields["resumed"].ref == older.ref
    assert losses(again) == losses(whole)[4:]
    assert any(newest.ref in line for line in again.warnings)


def test_a_checkpoint_with_another_manifest_is_rejected(run, stopped) -> None:
    spec, before, whole = stopped
    newest = before.checkpoints[-1]
    other = newest.model_copy(update={"manifest_sha256": "0" * 64})
    again = run(resuming(spec, other))
    assert rejected(again) == [(newest.ref, RejectionReason.CORRUPT)]
    assert "resumed" not in again.fields
    assert losses(again) == losses(whole), "none was left, so it started again"


@pytest.mark.parametrize("part", ["weights", "optimizer", "random"])
def test_a_restored_state_with_another_hash_is_rejected(run, stopped, part: str) -> None:
    """The files are intact, but the event log has another hash, so the job starts again."""
    spec, before, whole = stopped
    newest, older = before.checkpoints[-1], before.checkpoints[-2]
    state = newest.state.model_copy(update={part: "0" * 64})
    other = newest.model_copy(update={"state": state})
    again = run(resuming(spec, other, older))
    assert rejected(again) == [(newest.ref, RejectionReason.STATE_DIFFERS)]
    assert losses(again) == losses(whole)[4:]
    restarted = run(resuming(spec, other).model_copy(update={"segment": 3}))
    assert losses(restarted) == losses(whole)
    assert restarted.fields["evaluation"] == whole.fields["evaluation"]


@pytest.fixture
def rejections(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Rejected refs, also of a segment that raised."""
    told: list[str] = []
    reject = CheckpointLoader._reject
    monkeypatch.setattr(
        CheckpointLoader,
        "_reject",
        lambda own, saved, why: (told.append(saved.ref), reject(own, saved, why)),
    )
    return told


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), FailureClass.OUT_OF_MEMORY),
        (OSError(errno.EIO, "Input/output error"), FailureClass.TRAINER_CRASHED),
    ],
)
def test_a_read_error_of_verified_files_is_the_machines_fault(
    run, stopped, rejections, monkeypatch: pytest.MonkeyPatch, error, failure: FailureClass
) -> None:
    spec, before, whole = stopped
    again = resuming(spec, *before.checkpoints[:-3:-1])

    def fails(*_: object, **__: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(TrainingState, "read", fails)
        with pytest.raises(type(error)) as caught:
            run(again)
    assert classify(caught.value, Phase.DATASET_PREP) is failure
    assert not rejections
    assert losses(run(again.model_copy(update={"segment": 3}))) == losses(whole)[5:]


def test_an_unreachable_store_rejects_no_checkpoint(
    run, stopped, rejections, artifacts: Artifacts
) -> None:
    spec, before, _ = stopped
    pinned = {"base_manifest_sha256": artifacts.manifest(spec.base_ref).sha256}
    again = resuming(spec, before.checkpoints[-1]).model_copy(update=pinned)
    assert artifacts.root is not None
    artifacts.root.rename(artifacts.root.with_name("unmounted"))
    with pytest.raises(FileNotFoundError, match="models/tiny"):
        run(again)
    assert not rejections


def test_a_state_that_does_not_fit_the_trainer_fails_the_job(
    run, stopped, rejections, artifacts: Artifacts, tmp_path
) -> None:
    spec, before, _ = stopped
    newest = before.checkpoints[-1]
    artifacts.get_directory(newest.ref, tmp_path / "other")
    path = tmp_path / "other" / "optimizer.safetensors"
    TensorFile.of({"sgd": torch.zeros(1)}, {}).write(path)
    manifest = artifacts.put_directory(newest.ref, tmp_path / "other")
    other = newest.model_copy(update={"manifest_sha256": manifest.sha256})
    with pytest.raises(CheckpointMismatch, match=r"KeyError|ValueError|TypeError") as caught:
        run(resuming(spec, other))
    assert classify(caught.value, Phase.DATASET_PREP) is FailureClass.CHECKPOINT_MISMATCH
    assert not rejections


@pytest.mark.parametrize(
    "changed", [{"schema_version": checkpoint.SCHEMA_VERSION + 1}, {"sampler": "new"}]
)
def test_a_checkpoint_of_another_trainer_fails_the_job(
    run, stopped, rejections, artifacts: Artifacts, tmp_path, changed: dict
) -> None:
    spec, before, _ = stopped
    newest = before.checkpoints[-1]
    artifacts.get_directory(newest.ref, tmp_path / "newer")
    path = tmp_path / "newer" / checkpoint.POSITION
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    manifest = artifacts.put_directory(newest.ref, tmp_path / "newer")
    other = newest.model_copy(update={"manifest_sha256": manifest.sha256})
    with pytest.raises(CheckpointMismatch) as caught:
        run(resuming(spec, other, before.checkpoints[-2]))
    assert classify(caught.value, Phase.MODEL_LOAD) is FailureClass.CHECKPOINT_MISMATCH
    assert not rejections


def test_another_order_of_the_data_fails_the_job(run, stopped) -> None:
    spec, before, _ = stopped
    newest = before.checkpoints[-1]
    state = newest.state.model_copy(update={"position": "0" * 64})
    with pytest.raises(CheckpointMismatch, match="order"):
        run(resuming(spec, newest.model_copy(update={"state": state})))


def test_examples_that_render_differently_are_refused(
    run, stopped, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For example after an update of the tokenizer."""
    spec, before, _ = stopped
    monkeypatch.setattr(plan_module, "content_sha256", lambda examples: "0" * 64)
    with pytest.raises(CheckpointMismatch, match="order"):
        run(resuming(spec, before.checkpoints[-1]))


def test_the_mode_of_the_checkpoint_is_kept_or_its_difference_reported(
    run, make_spec: SpecMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segment, "choose_dtype", lambda device: torch.float32)
    spec = make_spec(CHOSEN)
    before = run(spec, stop_after=5)
    monkeypatch.setattr(segment, "choose_dtype", lambda device: torch.bfloat16)
    monkeypatch.setattr("services.trainer.execution.PAD_MULTIPLE", 16)
    again = run(resuming(spec, before.checkpoints[-1]))
    assert any("float32" in line for line in again.lines)
    assert again.fields["resumed"].differences == (
        ModeDifference(setting="pad_multiple", saved="8", now="16"),
    )
    assert any("pad_multiple" in line for line in again.warnings)


def test_the_data_position_does_not_depend_on_batches_and_ranks() -> None:
    plan = Plan(
        lengths=tuple(range(5, 45)),
        epochs=2,
        micro_batch_size=2,
        gradient_accumulation=4,
        seed=1,
        ranks=1,
    )
    spread = Plan(
        lengths=plan.lengths, epochs=2, micro_batch_size=2, gradient_accumulation=2, seed=1, ranks=2
    )
    here = data_position_sha256(plan, 3)
    assert data_position_sha256(spread, 3) == here
    others = [
        data_position_sha256(plan, 4),
        data_position_sha256(plan, 3 + plan.steps_per_epoch),
        data_position_sha256(Plan(plan.lengths, 2, 2, 4, 2), 3),
        data_position_sha256(Plan((*plan.lengths[:-1], 99), 2, 2, 4, 1), 3),
        data_position_sha256(replace(plan, content_sha256="0" * 64), 3),
    ]
    assert len({here, *others}) == 6
    assert data_position_sha256(plan, plan.total_steps) != here


def test_the_content_hash_covers_tokens_and_labels() -> None:
    example = Example((1, 2, 3), (IGNORED, 2, 3))
    others = [Example((1, 2, 4), (IGNORED, 2, 3)), Example((1, 2, 3), (IGNORED, IGNORED, 3))]
    hashes = {content_sha256([each]) for each in (example, *others)}
    assert len(hashes | {content_sha256([example, others[0]])}) == 4
    assert content_sha256([example]) in hashes


def test_the_data_position_hashes_the_lengths_once_an_epoch() -> None:
    """A stop waits for the hash, and hashing the lengths at each step would take its grace."""

    class Lengths(tuple[int, ...]):
        def __hash__(self) -> int:
            raise AssertionError("all lengths are hashed")

    plan = Plan(Lengths(range(5, 45)), 2, 2, 4, 1)
    assert data_position_sha256(plan, 3) == data_position_sha256(Plan(plan.lengths, 2, 2, 4, 1), 3)
