"""When a finite loss counts as diverged, and what is left of such a run."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest
import torch

from domain.checkpoint import SavedCheckpoint
from domain.failures import FailureClass
from domain.phases import Phase
from infrastructure.artifacts import Artifacts
from services.trainer import training
from services.trainer.divergence import PATIENCE_STEPS, Divergence
from services.trainer.evaluation import HeldOut, Score
from services.trainer.failures import LossDiverged, classify
from tests.services.trainer.conftest import SpecMaker
from tests.services.trainer.notes import resuming

GUESSING = math.log(1000)
GOOD, BAD = GUESSING - 2, GUESSING + 0.1


def watch(losses: list[float], lowest: float | None = None) -> Divergence:
    """What is thought of a run after these steps, of which the lowest so far is known."""
    watched = Divergence(1000)
    for step, loss in enumerate(losses, start=1):
        lowest = loss if lowest is None else min(lowest, loss)
        watched.take(step, loss, lowest)
    return watched


def test_five_steps_in_a_row_that_are_worse_than_guessing_have_diverged() -> None:
    assert watch([GOOD] + [BAD] * (PATIENCE_STEPS - 1)).suspect
    with pytest.raises(LossDiverged, match="at step 6"):
        watch([GOOD] + [BAD] * PATIENCE_STEPS)


def test_a_step_that_is_better_than_guessing_clears_the_run() -> None:
    assert not watch([GOOD, *[BAD] * 4, GUESSING - 0.1]).suspect
    assert watch([GOOD, *[BAD] * 4, GUESSING - 0.1, *[BAD] * 4]).suspect


@pytest.mark.parametrize("start", [GUESSING + 3, GUESSING - 0.9])
def test_a_base_that_has_not_learned_yet_may_lie_above_guessing(start: float) -> None:
    assert not watch([start] + [BAD] * 20).suspect


def test_a_resumed_run_remembers_that_it_had_learned() -> None:
    with pytest.raises(LossDiverged):
        watch([BAD] * PATIENCE_STEPS, lowest=GOOD)


def test_a_run_that_ends_suspect_is_judged_by_its_held_out_loss() -> None:
    watch([GOOD, GOOD]).conclude(BAD)
    watch([GOOD, BAD]).conclude(GOOD)
    with pytest.raises(LossDiverged, match="held-out"):
        watch([GOOD, BAD]).conclude(BAD)


def growing(healthy: int) -> Callable[..., torch.Tensor]:
    """The loss function, scaled: good for some micro batches, then bad."""
    real, numbers = training.loss_sum, count(1)

    def loss_sum(*arguments: Any) -> torch.Tensor:
        return real(*arguments) * (0.5 if next(numbers) <= healthy else 5)

    return loss_sum


CHOSEN = {"epochs": 4, "save_steps": 1, "gradient_accumulation": 1, "micro_batch_size": 4}


def test_a_stop_saves_a_suspect_run_too_and_its_resume_goes_on_judging(
    run, make_spec: SpecMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Good for 12 steps, then bad: two before the stop, three after it."""
    spec = make_spec(CHOSEN)
    with monkeypatch.context() as patch:
        patch.setattr(training, "loss_sum", growing(12))
        stopped = run(spec, stop_after=14)
    assert [saved.step for saved in stopped.checkpoints] == [*range(1, 13), 14]
    monkeypatch.setattr(training, "loss_sum", growing(0))
    with pytest.raises(LossDiverged, match="at step 17"):
        run(resuming(spec, stopped.checkpoints[-1]))


def test_a_diverging_run_ends_and_keeps_the_checkpoint_before_it(
    run, make_spec: SpecMaker, artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Good for 12 steps, then bad; a resume from there ends at the same one."""
    spec = make_spec(CHOSEN)
    with monkeypatch.context() as patch:
        patch.setattr(training, "loss_sum", growing(12))
        with pytest.raises(LossDiverged, match="at step 17") as diverged:
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
    )
    with pytest.raises(LossDiverged, match="at step 17"):
        run(spec.model_copy(update={"segment": 2, "resume_from": (last,)}))


def test_a_suspect_run_is_not_saved_however_low_its_held_out_loss(
    run, make_spec: SpecMaker, artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Good for 2 steps, then bad, while each evaluation is better than all before."""
    losses = count(9.0, -1.0)
    monkeypatch.setattr(training, "loss_sum", growing(2))
    monkeypatch.setattr(HeldOut, "score", lambda *_: Score(next(losses), 0.5, 10))
    spec = make_spec(CHOSEN | {"save_steps": 100, "eval_steps": 1})
    with pytest.raises(LossDiverged, match="at step 7"):
        run(spec)
    refs = {key.split("/")[-2] for key in artifacts.list(spec.checkpoint_prefix)}
    assert refs == {"step-000001", "step-000002"}
