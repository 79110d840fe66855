"""Divergence by a finite loss, and the checkpoints that remain."""

from __future__ import annotations

import json
import math
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from domain.jobs.failures import FailureClass
from domain.training.phases import Phase
from infrastructure.training.reports import SegmentSpec
from services.trainer import objectives
from services.trainer.checkpoint import POSITION
from services.trainer.divergence import DIVERGED_NATS, PATIENCE_STEPS, Divergence
from services.trainer.evaluation import HeldOut, Score
from services.trainer.failures import LossDiverged, classify
from services.trainer.progress import Progress
from services.trainer.training import Step
from tests.services.trainer.segments import Run, Trainer, resuming

GUESSING = math.log(1000)
FIRST = GUESSING - 1.2  # of the first steps: the threshold by guessing is the lower one
GOOD, BAD = GUESSING - 2, GUESSING + 0.1
BASE = [1.9, 2.4, 2.0, 2.1, 1.8]  # of the first five steps, far below guessing
THRESHOLD = max(BASE) + DIVERGED_NATS


def watch(losses: list[float], progress: Progress | None = None) -> Divergence:
    """Return the divergence after steps with these losses, the first of which follow a progress."""
    progress = progress or Progress()
    divergence = Divergence(1000, progress)
    for loss in losses:
        progress.take(Step(loss=loss, tokens=1, learning_rate=0.0, seconds=1.0), 100)
        divergence.take(loss)
    return divergence


@pytest.mark.parametrize(
    ("losses", "suspect"),
    [
        pytest.param([FIRST] * 5 + [BAD] * 4, True, id="above guessing"),
        pytest.param([*[FIRST] * 5, *[BAD] * 4, GUESSING - 0.1], False, id="below guessing again"),
        pytest.param(
            [*[FIRST] * 5, *[BAD] * 4, GUESSING - 0.1, *[BAD] * 4], True, id="counted from there"
        ),
        pytest.param([GUESSING + 3] + [BAD] * 20, False, id="untrained base above guessing"),
        pytest.param([GUESSING - 0.9] + [BAD] * 20, False, id="untrained base below guessing"),
        pytest.param([*BASE, *[THRESHOLD - 0.01] * 20], False, id="below the threshold"),
        pytest.param([*BASE, *[THRESHOLD + 0.1] * 4], True, id="far above the base"),
        pytest.param([*BASE, *[THRESHOLD + 0.1] * 4, THRESHOLD - 0.01], False, id="recovered"),
        pytest.param([1.0, 3.0, 5.0, 5.0, 5.0], False, id="the first five are the reference"),
    ],
)
def test_a_run_is_suspect_while_its_newest_steps_are_above_a_threshold(
    losses: list[float], suspect: bool
) -> None:
    assert watch(losses).suspect is suspect


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ([FIRST] * 5 + [BAD] * PATIENCE_STEPS, r"\b6\b.*\b10\b"),
        ([*BASE, *[THRESHOLD + 0.1] * PATIENCE_STEPS], r"10.*3\.9000.*2\.4000"),
    ],
)
def test_five_steps_above_a_threshold_have_diverged(losses: list[float], message: str) -> None:
    with pytest.raises(LossDiverged, match=message):
        watch(losses)


def test_a_resumed_run_knows_its_lowest_loss() -> None:
    with pytest.raises(LossDiverged):
        watch([BAD] * PATIENCE_STEPS, Progress(step=9, lowest_loss=GOOD))


def test_a_run_resumed_among_its_first_five_steps_continues_the_reference() -> None:
    progress = Progress()
    watch(BASE[:2], progress)
    assert not watch([2.0, 3.0, 1.8], progress).suspect
    assert not watch([3.0 + DIVERGED_NATS - 0.1], progress).suspect
    assert watch([3.0 + DIVERGED_NATS + 0.1], progress).suspect


@pytest.mark.parametrize("step", [2, 40])
def test_without_a_reference_only_guessing_is_a_threshold(step: int) -> None:
    progress = Progress(step=step, lowest_loss=1.9)
    assert not watch([1.9] * 5 + [THRESHOLD + 0.1] * 20, progress).suspect
    with pytest.raises(LossDiverged):
        watch([BAD] * 5, progress)


@pytest.mark.parametrize(
    ("start", "above", "below"),
    [([FIRST] * 5, BAD, GUESSING - 0.1), (BASE, THRESHOLD + 0.1, THRESHOLD)],
)
def test_a_run_that_ends_suspect_is_judged_by_its_held_out_loss(
    start: list[float], above: float, below: float
) -> None:
    watch(start).conclude(above, above)
    watch([*start, above]).conclude(above, below)
    with pytest.raises(LossDiverged, match="step 6"):
        watch([*start, above]).conclude(above, above)


@pytest.mark.parametrize("losses", [[2.1], [2.0, 7.0, 6.0, 6.0, 6.0, 6.0, 6.0]])
def test_a_run_far_above_the_base_on_held_out_examples_has_diverged(losses: list[float]) -> None:
    """A run that diverges in its first steps has no threshold."""
    watch(losses).conclude(2.0, 2.0 + DIVERGED_NATS)
    with pytest.raises(LossDiverged, match=r"3\.6000.*2\.0000"):
        watch(losses).conclude(2.0, 2.1 + DIVERGED_NATS)


def test_an_overfitted_run_has_not_diverged() -> None:
    watch([*BASE, 0.1, 0.1]).conclude(2.0, 2.1 + DIVERGED_NATS)


CHOSEN = {"epochs": 4, "save_steps": 1, "gradient_accumulation": 1, "micro_batch_size": 4}
COLLAPSED = CHOSEN | {"save_steps": 3, "learning_rate": 1e-5}
"""It learns nothing, so its losses are the base's, of about 5.9 nats, times their factors."""


def run_worsening(
    trainer: Trainer, spec: SegmentSpec, good_steps: int, factor: float = 5, **stop: int
) -> Run:
    """Run a segment whose loss is halved for some steps, then multiplied by a factor."""
    real, numbers = objectives.loss_sum, count(1)

    def loss_sum(*arguments: Any) -> torch.Tensor:
        return real(*arguments) * (0.5 if next(numbers) <= good_steps else factor)

    with trainer.patch.context() as patch:
        patch.setattr(objectives, "loss_sum", loss_sum)
        return trainer.run(spec, **stop)


@pytest.mark.full
@pytest.mark.parametrize(
    ("chosen", "good_steps", "factor", "stop_after", "diverged"),
    [
        pytest.param(CHOSEN, (12, 0), 5, 14, 17, id="above guessing"),
        pytest.param(COLLAPSED, (10, 0), 0.82, 12, 15, id="above the base"),
        pytest.param(COLLAPSED, (3, 2), 0.82, 3, 10, id="stopped among the first five"),
    ],
)
def test_a_stop_saves_a_suspect_run_and_its_resume_continues_the_count(
    trainer: Trainer, chosen, good_steps, factor, stop_after, diverged
) -> None:
    spec, (before, after) = trainer.spec(chosen), good_steps
    stopped = run_worsening(trainer, spec, before, factor, stop_after=stop_after)
    assert stopped.saved_steps[-1] == stop_after
    with pytest.raises(LossDiverged, match=f"step {diverged}"):
        run_worsening(trainer, resuming(spec, stopped.checkpoints[-1]), after, factor)


def stored(trainer: Trainer, spec: SegmentSpec) -> set[str]:
    return {key.split("/")[-2] for key in trainer.artifacts.list(spec.checkpoint_prefix)}


def test_a_diverging_run_ends_and_keeps_the_checkpoint_before_it(trainer: Trainer) -> None:
    spec = trainer.spec(CHOSEN)
    with pytest.raises(LossDiverged, match="step 17") as diverged:
        run_worsening(trainer, spec, 12)
    assert classify(diverged.value, Phase.TRAINING) is FailureClass.LOSS_DIVERGED
    assert max(stored(trainer, spec)) == "step-000012"


def test_a_suspect_run_is_not_saved_however_low_its_held_out_loss(trainer: Trainer) -> None:
    losses = count(9.0, -1.0)
    trainer.patch.setattr(HeldOut, "score", lambda *_: Score(next(losses), 0.5, 10))
    spec = trainer.spec(CHOSEN | {"save_steps": 100, "eval_steps": 1})
    with pytest.raises(LossDiverged, match="step 7"):
        run_worsening(trainer, spec, 2)
    assert stored(trainer, spec) == {"step-000001", "step-000002"}


@pytest.mark.full
def test_a_checkpoint_without_a_reference_is_resumed(trainer: Trainer) -> None:
    def forget(directory: Path) -> None:
        fields = json.loads((directory / POSITION).read_text())
        assert fields.pop("starting_loss") == pytest.approx(3, abs=0.2)
        (directory / POSITION).write_text(json.dumps(fields))

    spec = trainer.spec(COLLAPSED)
    (saved,) = run_worsening(trainer, spec, 3, stop_after=3).checkpoints
    again = resuming(spec, trainer.rewritten(saved, forget))
    assert run_worsening(trainer, again, 2, 0.82).phases[-1] == "register"


def test_a_diverged_adapter_is_not_registered(trainer: Trainer) -> None:
    scores = iter([Score(2.0, 0.5, 10), Score(3.6, 0.1, 10)])
    trainer.patch.setattr(HeldOut, "score", lambda *_: next(scores))
    spec = trainer.spec({"epochs": 1, "eval_steps": 100})
    with pytest.raises(LossDiverged, match="step 5"):
        trainer.run(spec)
    assert not trainer.artifacts.list(spec.adapter_prefix)
