"""Saving when the store, the disk or the network fails: the newest state is stored."""

from __future__ import annotations

import errno
import json
import threading
from collections.abc import Callable, Collection
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from obstore.exceptions import GenericError

from domain.jobs.failures import FailureClass
from domain.jobs.lifecycle import SegmentEnd
from domain.training.phases import Phase
from infrastructure.artifacts import Artifacts
from services.trainer.checkpoint_writer import Checkpoints
from services.trainer.divergence import Divergence
from services.trainer.evaluation import HeldOut, Score
from services.trainer.failures import classify
from tests.services.trainer.conftest import SpecMaker
from tests.services.trainer.group import run_ranks
from tests.services.trainer.notes import Notes

STEPS = {"save_steps": 2, "dropout": 0.0}
FULL = OSError(errno.ENOSPC, "No space left on device")


def break_store(
    failing: Collection[int],
    error: Exception = FULL,
    patch: Callable[..., None] = setattr,
) -> list[bool]:
    """Make the store fail halfway at the checkpoints of these numbers, from 1.

    Returns, for each checkpoint, True if training waits for it.
    """
    real, numbers, waits = Artifacts.take_directory, count(1), list[bool]()

    def take(store: Artifacts, prefix: str, directory: Path, known: Any) -> Any:
        waits.append(threading.current_thread() is threading.main_thread())
        if next(numbers) in failing:
            store.put(f"{prefix}/half.safetensors", b"half")
            raise error
        return real(store, prefix, directory, known)

    patch(Artifacts, "take_directory", take)
    return waits


def score(losses: list[float], patch: Callable[..., None] = setattr) -> None:
    """Make the evaluations return these held-out losses."""
    found = iter(losses)
    patch(HeldOut, "score", lambda *_: Score(next(found), 0.5, 10))


def saved_steps(notes: Notes) -> list[int]:
    return [saved.step for saved in notes.checkpoints]


def stored_steps(artifacts: Artifacts, prefix: str) -> set[int]:
    """Steps with any file in the store."""
    return {int(key.split("/step-")[1][:6]) for key in artifacts.list(prefix)}


@pytest.mark.parametrize("error", [FULL, GenericError("connection refused")])
def test_after_a_failed_upload_training_waits_for_the_next(
    run, make_spec: SpecMaker, artifacts: Artifacts, tmp_path: Path, monkeypatch, error: Exception
) -> None:
    waits = break_store({2}, error, monkeypatch.setattr)
    spec = make_spec(STEPS)
    notes = run(spec)
    assert saved_steps(notes) == [2, 6, 8, 10]
    assert waits == [False, False, True, False, True]
    assert stored_steps(artifacts, spec.checkpoint_prefix) == {2, 6, 8, 10}
    assert not list((tmp_path / f"{spec.job_id}-1" / "checkpoints").iterdir())
    assert any("step 4" in line for line in notes.warnings)
    assert notes.checkpoints[1].train_loss == notes.steps[5].train_loss


def test_a_stop_stores_the_step_again_after_a_failed_upload(
    run, make_spec: SpecMaker, artifacts: Artifacts, monkeypatch
) -> None:
    waits = break_store({2}, FULL, monkeypatch.setattr)
    spec = make_spec(STEPS)
    notes = run(spec, stop_after=4)
    assert notes.fields["outcome"] is SegmentEnd.STOPPED
    assert saved_steps(notes) == [2, 4]
    assert waits == [False, False, True]
    files = {file.path for file in artifacts.manifest(notes.checkpoints[-1].ref).files}
    assert "half.safetensors" not in files
    assert stored_steps(artifacts, spec.checkpoint_prefix) == {2, 4}


def test_a_stop_stores_the_newest_step_after_a_failed_upload(
    run, make_spec: SpecMaker, monkeypatch
) -> None:
    break_store({2}, FULL, monkeypatch.setattr)
    notes = run(make_spec(STEPS), stop_after=5)
    assert notes.fields["outcome"] is SegmentEnd.STOPPED
    assert saved_steps(notes) == [2, 5]


def test_a_run_fails_if_the_retry_of_a_save_fails(
    run, make_spec: SpecMaker, artifacts: Artifacts, monkeypatch
) -> None:
    break_store({2, 3}, FULL, monkeypatch.setattr)
    spec = make_spec(STEPS)
    with pytest.raises(OSError, match="No space left") as caught:
        run(spec, stop_after=5)
    assert classify(caught.value, Phase.TRAINING) is FailureClass.DISK_FULL
    assert stored_steps(artifacts, spec.checkpoint_prefix) == {2}


@pytest.mark.parametrize("error", [KeyError("adapter"), RuntimeError("the state is damaged")])
def test_errors_outside_the_store_end_the_run_at_once(
    run, make_spec: SpecMaker, monkeypatch, error: Exception
) -> None:
    waits = break_store({2}, error, monkeypatch.setattr)
    with pytest.raises(type(error)):
        run(make_spec(STEPS))
    assert waits == [False, False]


def test_a_run_that_ends_suspect_is_evaluated_without_the_checkpoint_that_was_not_stored(
    run, make_spec: SpecMaker, monkeypatch
) -> None:
    """There is no newer state to store, because the last step is suspect."""
    break_store({4}, FULL, monkeypatch.setattr)
    last = property(lambda own: own._progress.step == 10)
    monkeypatch.setattr(Divergence, "suspect", last)
    notes = run(make_spec(STEPS))
    assert saved_steps(notes) == [2, 4, 6]
    assert any("step 8" in line for line in notes.warnings)
    assert notes.phases[-1] == "register"


SCORED = {"save_steps": 4, "eval_steps": 2, "dropout": 0.0}
# At steps 2, 4, 6 and 8; then of the base and of the end.
HELD_OUT = [2.0, 2.5, 2.2, 2.3, 3.0, 2.4]


def bests(artifacts: Artifacts, notes: Notes) -> list[int | None]:
    """The best step that each checkpoint records."""
    read = (artifacts.get(f"{saved.ref}/position.json") for saved in notes.checkpoints)
    return [json.loads(content)["best_step"] for content in read]


def test_a_checkpoint_that_was_not_stored_is_not_the_best_one(
    run, make_spec: SpecMaker, artifacts: Artifacts, monkeypatch
) -> None:
    score(HELD_OUT, monkeypatch.setattr)
    break_store({1}, FULL, monkeypatch.setattr)
    notes = run(make_spec(SCORED))
    assert saved_steps(notes) == [4, 6, 8, 10]
    assert bests(artifacts, notes) == [4, 6, 6, 6]
    assert any("step 6" in line for line in notes.warnings)


def test_every_rank_learns_of_a_failed_upload(
    make_spec: SpecMaker, artifacts: Artifacts, tmp_path: Path
) -> None:
    """Else they would not save the same steps."""
    spec = make_spec(SCORED | {"gradient_accumulation": 1}, gpu_count=2)
    leader, follower = run_ranks(
        spec, tmp_path / "artifacts", tmp_path / "ranks", prepare=scored_with_a_store_that_fails
    )
    assert saved_steps(leader) == [4, 6, 8, 10]
    assert bests(artifacts, leader) == [4, 6, 6, 6]
    assert follower.phases[-1] == "evaluation"


def scored_with_a_store_that_fails() -> None:
    """Called in each rank; only rank 0 stores anything."""
    score(HELD_OUT)
    break_store({1})


def test_a_failed_segment_logs_the_checkpoint_that_was_not_stored(
    run, make_spec: SpecMaker, monkeypatch
) -> None:
    break_store({2}, FULL, monkeypatch.setattr)
    real = Checkpoints.save

    def save(own: Checkpoints, *arguments: Any, **named: Any) -> None:
        real(own, *arguments, **named)
        if own.progress.step == 4:
            raise RuntimeError("something else")

    monkeypatch.setattr(Checkpoints, "save", save)
    told: list[str] = []
    monkeypatch.setattr(Notes, "log", lambda own, text, level="INFO": told.append(text))
    with pytest.raises(RuntimeError, match="something else"):
        run(make_spec(STEPS))
    assert any("step 4" in line and "No space left" in line for line in told)
