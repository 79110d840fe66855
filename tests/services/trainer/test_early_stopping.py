"""Early stopping, the best state, and the kept checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain, repeat
from typing import Any

import pytest
from obstore.exceptions import GenericError
from safetensors.torch import load

from domain.jobs.lifecycle import SegmentEnd
from domain.training.checkpoint import RejectionReason, SavedCheckpoint, best
from infrastructure.artifacts.store import Artifacts
from infrastructure.training.reports import SegmentSpec
from services.trainer import segment
from services.trainer.evaluation import HeldOut, Score
from services.trainer.progress import Progress
from tests.services.trainer.segments import Run, Trainer, resuming

OVERFITTING: dict[str, Any] = {
    "epochs": 6,
    "warmup_share": 0.0,
    "save_steps": 4,
    "eval_steps": 2,
    "early_stopping_patience": 2,
    "load_best_model_at_end": True,
}


def overfitting(trainer: Trainer, **fields: Any) -> SegmentSpec:
    """Return a job whose validation file has another answer, so that its loss rises."""
    ref, sha256 = trainer.put_rows(answering("Thanks. Good evening. Hello!", 4))
    files = {"validation_ref": ref, "validation_sha256": sha256}
    return trainer.spec(
        OVERFITTING | fields.pop("hyperparameters", {}),
        rows=answering("the quick brown fox jumps over a lazy dog", 16),
        **files | fields,
    )


def answering(answer: str, count: int) -> list[dict[str, Any]]:
    return [
        {
            "messages": [
                {"role": "user", "content": f"Hello {number}"},
                {"role": "assistant", "content": answer},
            ]
        }
        for number in range(count)
    ]


def adapter_weights(artifacts: Artifacts, ref: str) -> Any:
    return load(artifacts.get(f"{ref}/adapter_model.safetensors"))


def existing(run: Run) -> list[SavedCheckpoint]:
    return list(reversed(run.checkpoints))


def test_training_ends_when_the_held_out_loss_no_longer_falls(trainer: Trainer) -> None:
    spec = overfitting(trainer)
    run = trainer.run(spec)
    stop = run.fields["stopped_early"]
    losses = {each.step: each.eval_loss for each in run.evaluations if 0 < each.step <= stop.step}
    lowest = min(losses, key=lambda step: losses[step])
    assert stop.lowest_step == lowest
    assert (stop.step, stop.evaluations) == (lowest + 4, 2)
    assert len(run.steps) == run.fields["total_steps"] == stop.step < stop.planned_steps
    assert run.saved_steps[-1] == stop.step
    assert any(f"stops early at step {stop.step}" in line for line in run.lines)
    assert "register" in run.phases


def test_the_best_state_is_evaluated_and_registered(trainer: Trainer) -> None:
    spec = overfitting(trainer)
    run = trainer.run(spec)
    saved = best(run.checkpoints)
    assert saved is not None
    assert run.evaluation.step == saved.step
    assert run.evaluation.loss_after == saved.eval_loss
    assert run.evaluation.final_loss is not None
    assert run.evaluation.final_loss > run.evaluation.loss_after
    found, expected = (
        adapter_weights(trainer.artifacts, ref) for ref in (spec.adapter_prefix, saved.ref)
    )
    assert found.keys() == expected.keys()
    assert all((found[name] == expected[name]).all() for name in found)
    assert saved.state is not None
    assert trainer.adapter_sha256(spec) == saved.state.weights
    assert not run.warns("has a lower held-out loss")


def test_the_final_state_is_registered_if_it_is_the_best(trainer: Trainer) -> None:
    chosen = {"epochs": 1, "eval_steps": 9, "load_best_model_at_end": True}
    run = trainer.train(chosen)  # without an evaluation before the end
    assert (run.evaluation.step, run.evaluation.final_loss) == (5, None)
    assert trainer.train({"epochs": 1, "eval_steps": 2}).evaluation.step is None


def _interrupted(trainer: Trainer, spec: Any, stops: list[dict[str, int]]) -> list[Run]:
    """Run a job in segments, each of which ends at a stop. The last one completes."""
    runs: list[Run] = []
    for stop in [*stops, {}]:
        runs.append(trainer.run(spec, **stop))
        assert (runs[-1].outcome is SegmentEnd.STOPPED) == bool(stop)
        saved = sorted((c for r in runs for c in r.checkpoints), key=lambda c: (c.segment, c.step))
        spec = resuming(spec, *reversed(saved))
    return runs


@pytest.mark.parametrize(
    "stops",
    [
        [{"stop_after": 2}],  # in the evaluation, which the next segment makes up for
        [{"stop_after": 5}],
        pytest.param([{"stop_after": step} for step in (1, 3, 4, 6)], marks=pytest.mark.full),
        pytest.param([{"stop_in": 5}, {"stop_in": 9}], marks=pytest.mark.full),
    ],
)
def test_a_resumed_job_stops_and_registers_the_same(
    trainer: Trainer, stops: list[dict[str, int]]
) -> None:
    whole, spec = overfitting(trainer), overfitting(trainer)
    expected = trainer.run(whole)
    runs = _interrupted(trainer, spec, stops)
    assert trainer.result(spec, *runs) == trainer.result(whole, expected)
    assert runs[-1].fields["stopped_early"] == expected.fields["stopped_early"]
    assert runs[-1].fields["total_steps"] == expected.fields["total_steps"]
    steps = [each.step for run in runs for each in run.evaluations if each.step]
    assert sorted(steps) == sorted(each.step for each in expected.evaluations if each.step)


def test_a_job_that_stopped_early_only_evaluates_when_it_resumes(trainer: Trainer) -> None:
    spec = overfitting(trainer)
    run = trainer.run(spec)
    again = trainer.run(resuming(spec, *existing(run)))
    assert again.steps == []
    assert again.evaluation == run.evaluation
    assert again.fields["stopped_early"] == run.fields["stopped_early"]
    assert again.fields["total_steps"] == run.fields["total_steps"]


SCORED = {"save_steps": 2, "epochs": 2, "early_stopping_patience": None}
"""8 steps, with evaluations and checkpoints after each second step."""


def _losing(trainer: Trainer, count: int) -> tuple[list[SavedCheckpoint], Run, SegmentSpec]:
    """Evaluate a trained job again whose best checkpoints are missing or damaged.

    Return the checkpoints of the first segment from the best to the worst, and the second segment.
    """
    spec = overfitting(trainer, hyperparameters=SCORED)
    with trainer.patch.context() as patch:
        losses = iter([2.0, 2.1, 2.2, 3.0, 2.3, 2.0])  # at three steps, of the base, at the end
        patch.setattr(HeldOut, "score", lambda *_: Score(next(losses), 0.5, 10))
        run = trainer.run(spec)
    saved = sorted(
        (each for each in run.checkpoints if each.eval_loss is not None),
        key=lambda each: each.eval_loss or 0,
    )
    trainer.artifacts.delete_directory(saved[0].ref)
    for each in saved[1:count]:
        trainer.artifacts.put(f"{each.ref}/adapter_model.safetensors", b"damaged")
    again = resuming(spec, *existing(run))
    with trainer.patch.context() as patch:
        losses = iter([3.0, 2.15, 2.1])  # of the base, of the final state, of the restored state
        patch.setattr(HeldOut, "score", lambda *_: Score(next(losses), 0.5, 10))
        return saved, trainer.run(again), again


def test_a_lost_best_checkpoint_is_replaced_by_the_next_best(trainer: Trainer) -> None:
    (lost, second, *_), run, spec = _losing(trainer, 1)
    found = run.evaluation
    assert (found.step, found.loss_after, found.final_loss) == (second.step, 2.1, 2.15)
    assert (found.lost_best_step, found.lost_best_loss) == (lost.step, lost.eval_loss)
    assert second.state is not None
    assert trainer.adapter_sha256(spec) == second.state.weights
    assert run.warns(f"cannot register the checkpoint of step {lost.step}")
    assert [each.ref for each in run.fields["rejected"]] == [lost.ref]


def test_the_final_state_is_registered_if_no_better_one_is_intact(trainer: Trainer) -> None:
    (lost, second, *_), run, spec = _losing(trainer, 2)
    found = run.evaluation
    assert (found.step, found.loss_after, found.final_loss) == (run.fields["step"], 2.15, None)
    assert (found.lost_best_step, found.lost_best_loss) == (lost.step, lost.eval_loss)
    final = next(each for each in spec.resume_from if each.step == found.step)
    assert final.state is not None
    assert trainer.adapter_sha256(spec) == final.state.weights
    assert [(each.ref, each.reason) for each in run.fields["rejected"]] == [
        (lost.ref, RejectionReason.MISSING),
        (second.ref, RejectionReason.CORRUPT),
    ]
    assert "register" in run.phases


def test_an_unreachable_store_is_no_lost_checkpoint(trainer: Trainer) -> None:
    def unreachable(*_: object) -> None:
        raise GenericError("connection refused")

    with trainer.patch.context() as patch:
        patch.setattr(segment, "require_base", _second_call(segment.require_base, unreachable))
        run = overfitting(trainer)
        with pytest.raises(GenericError, match="connection refused"):
            trainer.run(run)
    assert trainer.artifacts.list(run.checkpoint_prefix)  # it had trained


def _second_call(first: Callable[..., Any], second: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that calls `first` once, and then `second`."""
    functions = chain([first], repeat(second))
    return lambda *arguments: next(functions)(*arguments)


@pytest.mark.full
def test_two_ranks_agree_that_the_best_checkpoint_is_lost(trainer: Trainer) -> None:
    spec = trainer.spec(OVERFITTING | {"gradient_accumulation": 1}, gpu_count=2)
    leader, follower = trainer.run_ranks(spec, score_and_lose_the_best)
    assert (leader.evaluation.step, leader.evaluation.lost_best_step) == (6, 2)
    assert follower.evaluation == leader.evaluation
    assert "register" in leader.phases


def score_and_lose_the_best() -> None:
    """As `score_as_scripted`, but no state is intact."""
    score_as_scripted()

    def missing(*_: object) -> None:
        raise FileNotFoundError("no such checkpoint")

    segment.load_weights = missing


@pytest.mark.full
def test_two_ranks_register_the_best_state(trainer: Trainer) -> None:
    spec = trainer.spec(OVERFITTING | {"gradient_accumulation": 1}, gpu_count=2)
    leader, follower = trainer.run_ranks(spec, score_as_scripted)
    assert (leader.fields["stopped_early"].step, leader.evaluation.step) == (6, 2)
    assert follower.evaluation == leader.evaluation
    saved = best(leader.checkpoints)
    assert saved is not None
    assert saved.state is not None
    assert trainer.adapter_sha256(spec) == saved.state.weights


def score_as_scripted() -> None:
    """Set the losses at steps 2, 4 and 6, of the base, at the end, and of the restored state."""
    losses = iter([2.0, 2.5, 2.2, 3.0, 2.2, 2.0])
    HeldOut.score = lambda *_: Score(next(losses), 0.5, 10)  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("threshold", "losses", "stale"),
    [
        (0.0, [2.0, 1.9, 1.9, 1.9], 2),
        (0.0, [2.0, 2.1, 1.9], 0),
        (0.05, [2.0, 1.97, 1.94], 2),  # below the lowest loss, but by too little
        (0.05, [2.0, 1.97, 1.90], 0),
    ],
)
def test_an_evaluation_counts_as_in_transformers(
    threshold: float, losses: list[float], stale: int
) -> None:
    """The control class of transformers compares with the lowest loss so far."""
    from transformers import EarlyStoppingCallback, TrainerControl, TrainerState, TrainingArguments

    progress, callback = Progress(), EarlyStoppingCallback(100, threshold)
    arguments, state = TrainingArguments(output_dir="unused"), TrainerState()
    arguments.metric_for_best_model, arguments.greater_is_better = "eval_loss", False
    for loss in losses:
        progress.step += 1
        progress.take_evaluation(loss, threshold)
        callback.check_metric_value(arguments, state, TrainerControl(), loss)
        lowest = state.best_metric
        state.best_metric = loss if lowest is None else min(lowest, loss)
    assert progress.stale_evaluations == callback.early_stopping_patience_counter == stale
