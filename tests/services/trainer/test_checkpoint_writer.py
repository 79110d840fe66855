"""Saving when the store, the disk or the network fails: the newest state is stored."""

from __future__ import annotations

import errno
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
from infrastructure.artifacts.store import Artifacts
from infrastructure.training.reports import SegmentSpec
from services.trainer.checkpoint_writer import NOT_STORED, Checkpoints, NotStored
from services.trainer.divergence import Divergence
from services.trainer.evaluation import HeldOut, Score
from services.trainer.failures import classify
from services.trainer.unsent import Unsent
from tests.services.trainer.segments import Run, Trainer, resuming

STEPS = {"save_steps": 2, "dropout": 0.0}
FULL = OSError(errno.ENOSPC, "No space left on device")


def break_store(
    failing: Collection[int], error: Exception = FULL, patch: Callable[..., None] = setattr
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


def stored_steps(trainer: Trainer, spec: SegmentSpec) -> set[int]:
    """Return the steps with any file in the store."""
    keys = trainer.artifacts.list(spec.checkpoint_prefix)
    return {int(key.split("/step-")[1][:6]) for key in keys}


@pytest.mark.full
@pytest.mark.parametrize("error", [FULL, GenericError("connection refused")])
def test_after_a_failed_upload_training_waits_for_the_next(
    trainer: Trainer, error: Exception
) -> None:
    waits = break_store({2}, error, trainer.patch.setattr)
    spec = trainer.spec(STEPS)
    run = trainer.run(spec)
    assert run.saved_steps == [2, 6, 8, 10]
    assert waits == [False, False, True, False, True]
    assert stored_steps(trainer, spec) == {2, 6, 8, 10}
    assert not list((trainer.folder / f"{spec.job_id}-1" / "checkpoints").iterdir())
    assert run.warns("step 4")
    assert run.checkpoints[1].train_loss == run.losses[5]


@pytest.mark.parametrize("stop_after", [4, 5])
def test_a_stop_stores_the_newest_step_after_a_failed_upload(
    trainer: Trainer, stop_after: int
) -> None:
    """Also if it is step 4, whose upload failed."""
    waits = break_store({2}, FULL, trainer.patch.setattr)
    spec = trainer.spec(STEPS)
    run = trainer.run(spec, stop_after=stop_after)
    assert run.outcome is SegmentEnd.STOPPED
    assert run.saved_steps == [2, stop_after]
    assert waits == [False, False, True]
    files = {file.path for file in trainer.artifacts.manifest(run.checkpoints[-1].ref).files}
    assert "half.safetensors" not in files
    assert stored_steps(trainer, spec) == {2, stop_after}


def test_a_run_fails_if_the_retry_of_a_save_fails(trainer: Trainer) -> None:
    break_store({2, 3}, FULL, trainer.patch.setattr)
    spec = trainer.spec(STEPS)
    with pytest.raises(OSError, match="No space left") as caught:
        trainer.run(spec, stop_after=5)
    assert classify(caught.value, Phase.TRAINING) is FailureClass.DISK_FULL
    assert stored_steps(trainer, spec) == {2}


@pytest.mark.parametrize("error", [KeyError("adapter"), RuntimeError("the state is damaged")])
def test_errors_outside_the_store_end_the_run_at_once(trainer: Trainer, error: Exception) -> None:
    waits = break_store({2}, error, trainer.patch.setattr)
    with pytest.raises(type(error)):
        trainer.train(STEPS)
    assert waits == [False, False]


def test_a_run_that_ends_suspect_is_evaluated_without_the_checkpoint_that_was_not_stored(
    trainer: Trainer,
) -> None:
    """There is no newer state to store, because the last step is suspect."""
    break_store({4}, FULL, trainer.patch.setattr)
    last = property(lambda own: own._progress.step == 10)
    trainer.patch.setattr(Divergence, "suspect", last)
    run = trainer.train(STEPS)
    assert run.saved_steps == [2, 4, 6]
    assert run.warns("step 8")
    assert run.phases[-1] == "register"


def test_a_resume_sends_the_metrics_that_its_checkpoint_has(trainer: Trainer) -> None:
    spec = trainer.spec(STEPS)
    unsent = property(lambda run: Unsent(steps=tuple(run.steps[-1:])))
    with trainer.patch.context() as patch:
        patch.setattr(Run, "unsent", unsent)
        stopped = trainer.run(spec, stop_after=3)
    rest = trainer.run(resuming(spec, *reversed(stopped.checkpoints)))
    assert rest.resent is not None
    assert rest.resent.steps == (stopped.steps[2],)


SCORED = {"save_steps": 4, "eval_steps": 2, "dropout": 0.0}


def score_held_out(patch: Callable[..., None] = setattr) -> None:
    """Set the held-out losses at steps 2, 4, 6 and 8, then of the base and at the end."""
    losses = iter([2.0, 2.5, 2.2, 2.3, 3.0, 2.4])
    patch(HeldOut, "score", lambda *_: Score(next(losses), 0.5, 10))


def best_steps(trainer: Trainer, run: Run) -> list[int | None]:
    return [trainer.position(saved)["best_step"] for saved in run.checkpoints]


def test_a_checkpoint_that_was_not_stored_is_not_the_best_one(trainer: Trainer) -> None:
    score_held_out(trainer.patch.setattr)
    break_store({1}, FULL, trainer.patch.setattr)
    run = trainer.train(SCORED)
    assert run.saved_steps == [4, 6, 8, 10]
    assert best_steps(trainer, run) == [4, 6, 6, 6]
    assert run.warns("step 6")


@pytest.mark.full
def test_every_rank_learns_of_a_failed_upload(trainer: Trainer) -> None:
    """Otherwise they would not save the same steps."""
    spec = trainer.spec(SCORED | {"gradient_accumulation": 1}, gpu_count=2)
    leader, follower = trainer.run_ranks(spec, score_with_a_store_that_fails)
    assert leader.saved_steps == [4, 6, 8, 10]
    assert best_steps(trainer, leader) == [4, 6, 6, 6]
    assert follower.phases[-1] == "evaluation"


@pytest.mark.full
def test_every_rank_ends_if_the_best_state_was_not_stored(trainer: Trainer) -> None:
    """Otherwise the others would wait for rank 0 in their next exchange."""
    chosen = SCORED | {"gradient_accumulation": 1, "load_best_model_at_end": True}
    leader, follower = trainer.run_ranks(
        trainer.spec(chosen, gpu_count=2), score_with_a_store_that_fails
    )
    assert (leader.error, follower.error) == (repr(FULL), repr(NotStored(NOT_STORED)))


def score_with_a_store_that_fails() -> None:
    score_held_out()
    break_store({1})


def test_a_failed_segment_logs_the_checkpoint_that_was_not_stored(trainer: Trainer) -> None:
    break_store({2}, FULL, trainer.patch.setattr)
    save, lines = Checkpoints.save, list[str]()

    def save_and_fail(own: Checkpoints, *arguments: Any, **named: Any) -> None:
        save(own, *arguments, **named)
        if own.progress.step == 4:
            raise RuntimeError("something else")

    trainer.patch.setattr(Checkpoints, "save", save_and_fail)
    trainer.patch.setattr(Run, "log", lambda own, text, level="INFO": lines.append(text))
    with pytest.raises(RuntimeError, match="something else"):
        trainer.train(STEPS)
    assert any("step 4" in line and "No space left" in line for line in lines)


class SlowStore:
    """A store that waits for `release` before it stores a checkpoint."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.storing, self.release = threading.Event(), threading.Event()
        take = Artifacts.take_directory

        def wait_and_take(*arguments: Any) -> Any:
            self.storing.set()
            assert self.release.wait(60)
            return take(*arguments)

        patch.setattr(Artifacts, "take_directory", wait_and_take)


@pytest.mark.parametrize("released", [True, False])
def test_another_thread_waits_for_a_checkpoint_for_a_limited_time(
    trainer: Trainer, released: bool
) -> None:
    """For example if training hangs because a rank is lost."""
    store, save, waited = SlowStore(trainer.patch), Checkpoints.save, list[Run]()

    def save_and_wait(own: Checkpoints, *arguments: Any, **named: Any) -> None:
        own.await_stored(0.0)  # nothing is being stored yet
        save(own, *arguments, **named)
        assert store.storing.wait(60)
        if released:
            threading.Timer(0.1, store.release.set).start()
        own.await_stored(60.0 if released else 0.0)
        waited.append(own._reporter)  # type: ignore[arg-type]
        raise RuntimeError("the test is over")

    trainer.patch.setattr(Checkpoints, "save", save_and_wait)
    trainer.patch.setattr(Checkpoints, "close", lambda own: store.release.set())
    with pytest.raises(RuntimeError, match="over"):
        trainer.train({"save_steps": 1})
    (run,) = waited
    assert run.saved_steps == ([1] if released else [])
    assert run.warns("step 1") is not released
