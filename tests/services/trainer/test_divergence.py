"""Divergence by a finite loss, and the checkpoints that remain."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from domain.jobs.failures import FailureClass
from domain.training.checkpoint import SavedCheckpoint
from domain.training.phases import Phase
from infrastructure.artifacts import Artifacts
from services.trainer import training
from services.trainer.checkpoint import POSITION
from services.trainer.divergence import DIVERGED_NATS, PATIENCE_STEPS, Divergence
from services.trainer.evaluation import HeldOut, Score
from services.trainer.failures import LossDiverged, classify
from services.trainer.progress import Progress
from services.trainer.training import Step
from tests.services.trainer.conftest import SpecMaker
from tests.services.trainer.notes import resuming

GUESSING = math.log(1000)
FIRST = GUESSING - 1.2  # of the first steps: the line by guessing is the lower one
GOOD, BAD = GUESSING - 2, GUESSING + 0.1


def step_of(loss: float) -> Step:
    return Step(loss=loss, tokens=1, learning_rate=0.0, seconds=1.0)


def watch(losses: list[float], progress: Progress | None = None) -> Divergence:
    """Divergence after these steps, the first of which follows some progress."""
    progress = progress or Progress()
    watched = Divergence(1000, progress)
    for loss in losses:
        progress.take(step_of(loss), 100)
        watched.take(loss)
    return watched


def test_five_steps_above_guessing_have_diverged() -> None:
    assert watch([FIRST] * 5 + [BAD] * (PATIENCE_STEPS - 1)).suspect
    with pytest.raises(LossDiverged, match=r"\b6\b.*\b10\b"):
        watch([FIRST] * 5 + [BAD] * PATIENCE_STEPS)


def test_one_step_below_guessing_clears_the_run() -> None:
    start = [FIRST] * 5
    assert not watch([*start, *[BAD] * 4, GUESSING - 0.1]).suspect
    assert watch([*start, *[BAD] * 4, GUESSING - 0.1, *[BAD] * 4]).suspect


@pytest.mark.parametrize("start", [GUESSING + 3, GUESSING - 0.9])
def test_an_untrained_base_may_be_above_guessing(start: float) -> None:
    assert not watch([start] + [BAD] * 20).suspect


def test_a_resumed_run_knows_its_lowest_loss() -> None:
    with pytest.raises(LossDiverged):
        watch([BAD] * PATIENCE_STEPS, Progress(step=9, lowest_loss=GOOD))


BASE = [1.9, 2.4, 2.0, 2.1, 1.8]  # of the first five steps, far below guessing
LINE = max(BASE) + DIVERGED_NATS


def test_five_steps_far_above_the_base_have_diverged() -> None:
    collapsed = LINE + 0.1
    assert collapsed < GUESSING - 2
    assert not watch([*BASE, *[LINE - 0.01] * 20]).suspect
    assert not watch([*BASE, *[collapsed] * 4, LINE - 0.01]).suspect
    assert watch([*BASE, *[collapsed] * 4]).suspect
    with pytest.raises(LossDiverged, match=r"10.*3\.9000.*2\.4000"):
        watch([*BASE, *[collapsed] * 5])


def test_the_first_five_steps_are_the_reference_and_never_above_it() -> None:
    """Also of a run without more steps, or stopped and resumed among them."""
    assert not watch([1.0, 3.0, 5.0, 5.0, 5.0]).suspect
    progress = Progress()
    watch(BASE[:2], progress)
    assert not watch([2.0, 3.0, 1.8], progress).suspect
    assert not watch([3.0 + DIVERGED_NATS - 0.1], progress).suspect
    assert watch([3.0 + DIVERGED_NATS + 0.1], progress).suspect


def test_without_a_reference_only_guessing_is_a_line() -> None:
    """The checkpoint has no reference, before or after the fifth step."""
    for step in (2, 40):
        progress = Progress(step=step, lowest_loss=1.9)
        assert not watch([1.9] * 5 + [LINE + 0.1] * 20, progress).suspect
        with pytest.raises(LossDiverged):
            watch([BAD] * 5, progress)


@pytest.mark.parametrize(
    ("start", "above", "below"), [([FIRST] * 5, BAD, GUESSING - 0.1), (BASE, LINE + 0.1, LINE)]
)
def test_a_run_that_ends_suspect_is_judged_by_its_held_out_loss(
    start: list[float], above: float, below: float
) -> None:
    watch(start).conclude(above, above)
    watch([*start, above]).conclude(above, below)
    with pytest.raises(LossDiverged, match="step 6"):
        watch([*start, above]).conclude(above, above)


def test_a_run_far_above_the_base_on_held_out_examples_has_diverged() -> None:
    """A run that diverges in its first steps has no line."""
    for losses in ([2.1], [2.0, 7.0, 6.0, 6.0, 6.0, 6.0, 6.0]):
        watch(losses).conclude(2.0, 2.0 + DIVERGED_NATS)
        with pytest.raises(LossDiverged, match=r"3\.6000.*2\.0000"):
            watch(losses).conclude(2.0, 2.1 + DIVERGED_NATS)


def test_an_overfitted_run_has_not_diverged() -> None:
    watch([*BASE, 0.1, 0.1]).conclude(2.0, 2.1 + DIVERGED_NATS)


def growing(healthy: int, factor: float = 5) -> Callable[..., torch.Tensor]:
    """A loss function that is good for some micro-batches, then bad."""
    real, numbers = training.loss_sum, count(1)

    def loss_sum(*arguments: Any) -> torch.Tensor:
        return real(*arguments) * (0.5 if next(numbers) <= healthy else factor)

    return loss_sum


CHOSEN = {"epochs": 4, "save_steps": 1, "gradient_accumulation": 1, "micro_batch_size": 4}


def test_a_stop_saves_a_suspect_run_and_its_resume_continues_the_count(
    run, make_spec: SpecMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Good for 12 steps, then bad: two before the stop, three after it."""
    spec = make_spec(CHOSEN)
    with monkeypatch.context() as patch:
        patch.setattr(training, "loss_sum", growing(12))
        stopped = run(spec, stop_after=14)
    assert [saved.step for saved in stopped.checkpoints] == [*range(1, 13), 14]
    monkeypatch.setattr(training, "loss_sum", growing(0))
    with pytest.raises(LossDiverged, match="step 17"):
        run(resuming(spec, stopped.checkpoints[-1]))


def test_a_diverging_run_ends_and_keeps_the_checkpoint_before_it(
    run, make_spec: SpecMaker, artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Good for 12 steps, then bad; a resume from there ends at the same one."""
    spec = make_spec(CHOSEN)
    with monkeypatch.context() as patch:
        patch.setattr(training, "loss_sum", growing(12))
        with pytest.raises(LossDiverged, match="step 17") as diverged:
            run(spec)
    assert classify(diverged.value, Phase.TRAINING) is FailureClass.LOSS_DIVERGED
    refs = {key.split("/")[-2] for key in artifacts.list(spec.checkpoint_prefix)}
    assert max(refs) == "step-000012"
    monkeypatch.setattr(training, "loss_sum", growing(0))
    ref = f"{spec.checkpoint_prefix}/step-000012"
    last = SavedCheckpoint(
        segment=1,
        step=12,
        ref=ref,
        manifest_sha256=artifacts.manifest(ref).sha256,
        elapsed_seconds=0,
        train_loss=2.0,
        total_bytes=1,
    )
    with pytest.raises(LossDiverged, match="step 17"):
        run(spec.model_copy(update={"segment": 2, "resume_from": (last,)}))


def test_a_suspect_run_is_not_saved_however_low_its_held_out_loss(
    run, make_spec: SpecMaker, artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Good for 2 steps, then bad, while each evaluation is better than all before."""
    losses = count(9.0, -1.0)
    monkeypatch.setattr(training, "loss_sum", growing(2))
    monkeypatch.setattr(HeldOut, "score", lambda *_: Score(next(losses), 0.5, 10))
    spec = make_spec(CHOSEN | {"save_steps": 100, "eval_steps": 1})
    with pytest.raises(LossDiverged, match="step 7"):
        run(spec)
    refs = {key.split("/")[-2] for key in artifacts.list(spec.checkpoint_prefix)}
    assert refs == {"step-000001", "step-000002"}


COLLAPSED = CHOSEN | {"save_steps": 3, "learning_rate": 1e-5}
"""It learns nothing, so that its losses are the base's, of about 5.9 nats, times their factors."""


def test_a_run_above_its_reference_ends_also_after_a_resume(
    run, make_spec: SpecMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """3 nats for 10 steps, then 4.8, two of them before the stop; guessing is 5.9."""
    spec = make_spec(COLLAPSED)
    with monkeypatch.context() as patch:
        patch.setattr(training, "loss_sum", growing(10, 0.82))
        stopped = run(spec, stop_after=12)
    assert max(measured.train_loss for measured in stopped.steps) < math.log(372) - 0.5
    assert [saved.step for saved in stopped.checkpoints] == [3, 6, 9, 12]
    assert any("step" in line for line in stopped.warnings)
    monkeypatch.setattr(training, "loss_sum", growing(0, 0.82))
    with pytest.raises(LossDiverged, match="step 15"):
        run(resuming(spec, stopped.checkpoints[-1]))


def test_a_resume_before_the_fifth_step_continues_the_reference(
    run, make_spec: SpecMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """3 nats in three steps before the stop, then in two after it, then 4.8."""
    spec = make_spec(COLLAPSED)
    with monkeypatch.context() as patch:
        patch.setattr(training, "loss_sum", growing(3))
        stopped = run(spec, stop_after=3)
    monkeypatch.setattr(training, "loss_sum", growing(2, 0.82))
    with pytest.raises(LossDiverged, match="step 10"):
        run(resuming(spec, stopped.checkpoints[-1]))


def test_a_checkpoint_of_an_older_trainer_has_no_reference_and_is_resumed(
    run, make_spec: SpecMaker, artifacts: Artifacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec(COLLAPSED)
    with monkeypatch.context() as patch:
        patch.setattr(training, "loss_sum", growing(3))
        saved = run(spec, stop_after=3).checkpoints[-1]
    artifacts.get_directory(saved.ref, tmp_path / "old")
    path = tmp_path / "old" / POSITION
    fields = json.loads(path.read_text())
    assert fields.pop("starting_loss") == pytest.approx(3, abs=0.2)
    path.write_text(json.dumps(fields))
    old = artifacts.put_directory(saved.ref, tmp_path / "old")
    monkeypatch.setattr(training, "loss_sum", growing(2, 0.82))
    again = resuming(spec, saved.model_copy(update={"manifest_sha256": old.sha256}))
    assert run(again).phases[-1] == "register"


def test_a_diverged_adapter_is_not_registered(
    run, make_spec: SpecMaker, artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([Score(2.0, 0.5, 10), Score(3.6, 0.1, 10)])
    monkeypatch.setattr(HeldOut, "score", lambda *_: next(scores))
    spec = make_spec({"epochs": 1, "eval_steps": 100})
    with pytest.raises(LossDiverged, match="step 5"):
        run(spec)
    assert not artifacts.list(spec.adapter_prefix)
