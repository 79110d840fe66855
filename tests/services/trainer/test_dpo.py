"""Training with direct preference optimization (DPO)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import pytest
import torch

from domain.training.hyperparameters import DPO
from domain.training.phases import Phase
from domain.training.precision import Dtype
from infrastructure.training.reports import SegmentSpec
from services.trainer import reference
from services.trainer.checkpoint import CheckpointMismatch
from services.trainer.kernels.cross_entropy import CrossEntropy, TokenLosses
from tests.builders.tiny_model import preference_pairs
from tests.services.trainer.segments import Run, Trainer, resuming


def spec_of(
    trainer: Trainer, hyperparameters: Mapping[str, Any] = MappingProxyType({}), **fields: Any
) -> SegmentSpec:
    """Return the first segment of a job with DPO: 19 pairs to train on, and one held out."""
    chosen = {"method": DPO, "beta": 0.2, **hyperparameters}
    return trainer.spec(chosen, preference_pairs(20), **{"dtype": Dtype.FLOAT32, **fields})


def test_the_loss_of_each_token_sums_to_the_cross_entropy() -> None:
    torch.manual_seed(1)
    logits = torch.randn(40, 5000, requires_grad=True)
    targets = torch.randint(5000, (40,))
    expected = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    found = TokenLosses.apply(logits, targets)
    assert isinstance(found, torch.Tensor)
    torch.testing.assert_close(found, expected)
    weights = torch.randn(40)
    (mine,) = torch.autograd.grad((found * weights).sum(), logits)
    (theirs,) = torch.autograd.grad((expected * weights).sum(), logits)
    torch.testing.assert_close(mine, theirs)
    assert CrossEntropy.apply(logits, targets).item() == pytest.approx(found.sum().item())


def test_training_prefers_the_preferred_answers(trainer: Trainer) -> None:
    run = trainer.run(spec_of(trainer, {"epochs": 6, "learning_rate": 0.01, "dropout": 0.0}))
    assert run.phases == [each.value for each in Phase if each is not Phase.IMAGE_PULL]
    first, last = run.steps[0], run.steps[-1]
    assert first.train_loss == pytest.approx(math.log(2), abs=1e-3)
    assert last.train_loss < first.train_loss
    assert last.accuracy == 1.0
    assert (last.chosen_reward or 0) > (last.rejected_reward or 0)
    found = run.evaluation
    assert (found.loss_before, found.accuracy_before) == (math.log(2), 0.5)
    assert found.loss_after < found.loss_before
    assert found.accuracy_after == 1.0
    assert (found.reward_margin or 0) > 0
    assert [each.step for each in run.evaluations][-2:] == [0, run.steps[-1].step]
    assert run.evaluations[-1].chosen_reward is not None


def test_pairs_stay_together_and_a_step_has_as_many_examples(trainer: Trainer) -> None:
    run = trainer.run(spec_of(trainer))
    assert run.fields["train_examples"] == 19
    assert run.fields["total_steps"] == 2 * math.ceil(19 / 4)


def _once(trainer: Trainer) -> list[int]:
    """Count the computed references."""
    calls: list[int] = []
    compute = reference.Referee.reference

    def counting(*arguments: Any) -> reference.Reference:
        calls.append(1)
        return compute(*arguments)

    trainer.patch.setattr(reference.Referee, "reference", counting)
    return calls


@pytest.mark.full
@pytest.mark.parametrize("stop", [{"stop_after": 3}, {"stop_in": 7}, {"lapse_after": 5}], ids=str)
def test_an_interrupted_job_is_identical_and_scores_the_reference_once(
    trainer: Trainer, stop: Any
) -> None:
    calls = _once(trainer)
    whole = trainer.run(spec := spec_of(trainer))
    expected = trainer.result(spec, whole)
    interrupted = trainer.run(spec := spec_of(trainer), **stop)
    rest = trainer.run(last := resuming(spec, interrupted.checkpoints[-1]))
    assert trainer.result(last, interrupted, rest) == expected
    assert rest.fields["resumed"].unchecked == ()
    assert Phase.REFERENCE.value not in rest.phases
    assert len(calls) == 2


def test_a_stop_while_the_reference_is_scored_saves_nothing(trainer: Trainer) -> None:
    spec = spec_of(trainer)
    with trainer.patch.context() as patch:
        patch.setattr(reference.Referee, "_batch", _stopping(reference.Referee._batch))
        stopped = trainer.run(spec)
    assert (stopped.outcome, stopped.checkpoints) == ("stopped", [])
    rest = trainer.run(resuming(spec))
    assert rest.losses == trainer.run(spec_of(trainer)).losses


def _stopping(score: Any) -> Any:
    def stopping(referee: reference.Referee, *arguments: Any) -> Any:
        referee.lease.request_stop()
        return score(referee, *arguments)

    return stopping


def test_a_checkpoint_without_its_reference_does_not_fit(trainer: Trainer) -> None:
    first = trainer.run(spec := spec_of(trainer), stop_after=3)
    saved = trainer.rewritten(
        first.checkpoints[0],
        lambda folder: reference.TensorFile.of({"train": torch.zeros(1, 2)}, {}).write(
            folder / reference.FILE
        ),
    )
    with pytest.raises(CheckpointMismatch):
        trainer.run(resuming(spec, saved))


def test_a_continued_adapter_is_the_reference(trainer: Trainer) -> None:
    parent = trainer.run(spec_of(trainer, {"learning_rate": 0.01, "epochs": 3, "dropout": 0.0}))
    saved = parent.checkpoints[-1]
    start = {"start_ref": saved.ref, "start_manifest_sha256": saved.manifest_sha256}
    child = trainer.run(spec_of(trainer, {"dropout": 0.0}, **start))
    assert child.steps[0].train_loss == pytest.approx(math.log(2), abs=1e-4)
    assert child.steps[0].chosen_reward == pytest.approx(0, abs=1e-4)
    assert any("the adapter that the job continues as the reference" in x for x in child.lines)


def _close(one: Sequence[float], other: Sequence[float]) -> bool:
    return one == pytest.approx(other, abs=1e-5)


def test_the_division_into_micro_batches_changes_no_loss(trainer: Trainer) -> None:
    whole, split = (
        trainer.run(spec_of(trainer, {"dropout": 0.0}, micro_batch_split=parts)) for parts in (1, 2)
    )
    assert _close(whole.losses, split.losses)


def test_beta_scales_the_rewards(trainer: Trainer) -> None:
    weak, strong = (
        trainer.run(spec := spec_of(trainer, {"dropout": 0.0, "beta": beta})) and spec
        for beta in (0.1, 0.5)
    )
    assert trainer.adapter_sha256(weak) != trainer.adapter_sha256(strong)


@pytest.mark.full
def test_two_ranks_train_as_one(trainer: Trainer) -> None:
    tuned = {"dropout": 0.0, "gradient_accumulation": 1}
    two = spec_of(trainer, tuned, gpu_count=2)
    runs: list[Run] = trainer.run_ranks(two)
    alone = trainer.run(spec_of(trainer, tuned, gpu_count=1, approved_gpu_count=2))
    assert _close(runs[0].losses, alone.losses)
    assert runs[0].evaluation.loss_after == pytest.approx(alone.evaluation.loss_after, abs=1e-5)


@pytest.mark.full
@pytest.mark.parametrize("stop", [{"stop_after": 3}, {"stop_in": 7}, {"lapse_after": 5}], ids=str)
def test_two_ranks_resume_exactly_with_the_reference_of_the_checkpoint(
    trainer: Trainer, stop: Any
) -> None:
    tuned = {"dropout": 0.1, "epochs": 4, "gradient_accumulation": 2}
    whole, spec = (spec_of(trainer, tuned, gpu_count=2) for _ in range(2))
    expected, follower = trainer.run_ranks(whole)
    assert follower.evaluation == expected.evaluation
    (interrupted,) = trainer.run_ranks(spec, **stop)
    assert interrupted.outcome is not None
    rest, _ = trainer.run_ranks(last := resuming(spec, interrupted.checkpoints[-1]))
    assert trainer.result(last, interrupted, rest) == trainer.result(whole, expected)
    assert rest.fields["resumed"].unchecked == ()
    assert Phase.REFERENCE.value not in rest.phases
