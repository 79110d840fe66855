"""Evaluations between the steps and at the end, and their examples."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from domain.estimating.pricing import VALIDATION_MAXIMUM
from domain.jobs.lifecycle import SegmentEnd
from domain.training.perplexity import perplexity
from infrastructure.chat.chat_labels import IGNORED, Example
from infrastructure.training.reports import SegmentSpec
from services.trainer import objectives, segment
from services.trainer.batches import collate, loss_sum, scored
from services.trainer.clock import SegmentClock
from services.trainer.dataset import DatasetTooSmall
from services.trainer.evaluation import HeldOut, Score
from services.trainer.failures import LossDiverged
from services.trainer.lease import Lease
from services.trainer.model import CPU, load_base
from services.trainer.objectives import CrossEntropy
from services.trainer.oom import MicroBatchTooLarge, reporting_out_of_memory
from services.trainer.pairs import Pair
from services.trainer.plan import Plan
from services.trainer.processes.ranks import Ranks
from tests.builders.tiny_model import chats
from tests.services.trainer.segments import Trainer, resuming

RUNNING = Lease(SegmentClock(0.0), math.inf, math.inf)
PLAN = Plan(lengths=(2,), epochs=1, micro_batch_size=4, gradient_accumulation=2, seed=42)


def with_validation(trainer: Trainer, spec: SegmentSpec, rows: list[dict]) -> SegmentSpec:
    ref, sha256 = trainer.put_rows(rows)
    return spec.model_copy(update={"validation_ref": ref, "validation_sha256": sha256})


def score_held_out(trainer: Trainer, *losses: float) -> None:
    """Set the held-out losses of the next evaluations."""
    scores = iter(losses)
    trainer.patch.setattr(HeldOut, "score", lambda *_: Score(next(scores), 0.5, 10))


def test_loss_and_accuracy_cover_the_label_tokens(tiny_model) -> None:
    model = load_base(tiny_model, torch.float32)
    examples = [
        Example((5, 6, 7, 8, 9), (IGNORED, IGNORED, 7, IGNORED, 9)),
        Example((9, 8), (IGNORED, 8)),
    ]
    batch = collate(examples, CPU)
    loss, correct = scored(model, batch)
    assert loss == pytest.approx(loss_sum(model, batch).item())
    logits = [model(input_ids=torch.tensor([each.input_ids])).logits[0] for each in examples]
    places = [(0, 1, 7), (0, 3, 9), (1, 0, 8)]
    firsts = [int(logits[row][column].argmax()) == label for row, column, label in places]
    assert correct == sum(firsts)
    right = int(logits[0][1].argmax())
    predicted = Example((5, 6, right), (IGNORED, IGNORED, right))
    assert scored(model, collate([predicted], CPU))[1] == 1


def test_evaluations_between_the_steps_change_nothing(trainer: Trainer) -> None:
    rarely, often = (
        trainer.spec({"dropout": 0.1, "save_steps": 4, "eval_steps": n}) for n in (1000, 3)
    )
    plain, evaluated = trainer.run(rarely), trainer.run(often)
    assert [each.step for each in plain.evaluations] == [0, 10]
    assert [each.step for each in evaluated.evaluations] == [3, 6, 9, 0, 10]
    assert trainer.result(often, evaluated) == trainer.result(rarely, plain)
    assert evaluated.evaluations[-1].eval_loss == evaluated.evaluation.loss_after


def test_a_checkpoint_contains_the_evaluation_of_its_step(trainer: Trainer) -> None:
    run = trainer.train({"save_steps": 4})
    by_step = {each.step: each.eval_loss for each in run.evaluations}
    saved = [trainer.position(each) for each in run.checkpoints]
    assert [each["step"] for each in saved] == [4, 8, 10]
    # The evaluation phase evaluates the last step.
    assert [each["eval_loss"] for each in saved] == [by_step[4], by_step[8], None]
    assert saved[-1]["best_eval_loss"] == min(by_step[4], by_step[8])


@pytest.mark.full
@pytest.mark.parametrize(("eval_steps", "step"), [(4, 4), (1000, 10)], ids=["between", "end"])
def test_a_stop_ends_an_evaluation_and_the_resume_evaluates(
    trainer: Trainer, eval_steps: int, step: int
) -> None:
    chosen = {"save_steps": 4, "eval_steps": eval_steps, "dropout": 0.1}
    whole, spec = trainer.spec(chosen), trainer.spec(chosen)
    expected, score = trainer.run(whole), HeldOut.score

    def stop_and_score(held_out: HeldOut, model: Any, lease: Lease) -> Score | None:
        lease.request_stop()
        return score(held_out, model, lease)

    with trainer.patch.context() as patch:
        patch.setattr(HeldOut, "score", stop_and_score)
        stopped = trainer.run(spec)
    assert stopped.outcome is SegmentEnd.STOPPED
    assert not stopped.evaluations
    saved = stopped.checkpoints[-1]
    assert (saved.step, trainer.position(saved)["eval_loss"]) == (step, None)
    resumed = trainer.run(resuming(spec, saved))
    assert trainer.result(spec, stopped, resumed) == trainer.result(whole, expected)


@pytest.mark.full
def test_the_final_adapter_is_registered_and_a_better_checkpoint_of_any_segment_logged(
    trainer: Trainer,
) -> None:
    score_held_out(trainer, 2.0, 2.4, 2.9, 3.0, 2.3)
    spec = trainer.spec({"save_steps": 3})
    last = trainer.run(spec, stop_after=6).checkpoints[-1]
    assert trainer.position(last)["best_step"] == 3
    resumed = trainer.run(resuming(spec, last))
    (warning,) = [line for line in resumed.warnings if "held-out loss" in line]
    assert "step 3" in warning
    assert "2.3000" in warning
    assert resumed.evaluation.loss_after == 2.3


def test_the_lowest_held_out_loss_so_far_is_saved_between_two_checkpoints(
    trainer: Trainer,
) -> None:
    """Of equal ones the first, also if an earlier segment saved it."""
    score_held_out(trainer, 2.0, 2.0, 1.9, 3.0, 2.3)
    spec = trainer.spec({"save_steps": 4, "eval_steps": 3})
    first = trainer.run(spec, stop_after=5)
    resumed = trainer.run(resuming(spec, first.checkpoints[-1]))
    saved = [(each.step, each.eval_loss) for run in (first, resumed) for each in run.checkpoints]
    assert saved == [(3, 2.0), (4, None), (5, None), (8, None), (9, 1.9), (10, None)]
    assert resumed.warns("step 9")


@pytest.mark.full
def test_a_resume_from_the_best_checkpoint_saves_the_same_checkpoints(trainer: Trainer) -> None:
    spec = trainer.spec({"save_steps": 4, "eval_steps": 3, "dropout": 0.1})
    whole = trainer.run(spec)
    best, *later = whole.checkpoints
    assert best.step == 3
    resumed = trainer.run(resuming(spec, best))
    assert list(map(trainer.position, resumed.checkpoints)) == list(map(trainer.position, later))
    assert resumed.evaluation == whole.evaluation


@pytest.mark.full
def test_a_validation_file_leaves_the_whole_dataset_to_training(trainer: Trainer) -> None:
    rows = chats(400)[20:]
    spec = with_validation(trainer, trainer.spec({"epochs": 1, "save_steps": 3}), rows)
    run = trainer.run(spec)
    assert run.fields["train_examples"] == 20
    assert run.fields["eval_examples"] == run.evaluation.examples == VALIDATION_MAXIMUM
    assert any("256" in line and "380" in line for line in run.lines)
    assert trainer.run(resuming(spec, run.checkpoints[0])).evaluation == run.evaluation
    few = trainer.run(with_validation(trainer, trainer.spec(rows=chats(1)), rows[:3]))
    assert (few.fields["train_examples"], few.fields["eval_examples"]) == (1, 3)


def test_a_validation_file_without_an_answer_to_learn_is_named(trainer: Trainer) -> None:
    silent = [{"messages": [{"role": "user", "content": "Anybody?"}]}]
    with pytest.raises(DatasetTooSmall, match="validation"):
        trainer.run(with_validation(trainer, trainer.spec(), silent))


def test_the_evaluation_has_perplexity_and_accuracy(trainer: Trainer) -> None:
    run = trainer.train({"epochs": 6, "learning_rate": 0.1})
    found = run.evaluation
    assert found.accuracy_before is not None
    assert found.accuracy_after is not None
    assert 0 <= found.accuracy_before < found.accuracy_after <= 1
    text = f"perplexity {math.exp(found.loss_after):.4g}, {found.accuracy_after:.1%}"
    assert any(text in line for line in run.lines)
    assert perplexity(10_000.0) == perplexity(700.0)


def test_a_nan_held_out_loss_ends_the_run(tiny_model) -> None:
    model = load_base(tiny_model, torch.float32)
    torch.nn.init.constant_(model.get_input_embeddings().weight, math.nan)
    held_out = HeldOut([Example((5, 6), (IGNORED, 6))], PLAN, Ranks.alone(), CrossEntropy())
    with pytest.raises(LossDiverged, match="nan"):
        held_out.score(model, RUNNING)


def test_out_of_memory_in_evaluation_names_the_batch(
    tiny_model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scarce(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB.")

    monkeypatch.setattr(objectives, "scored", scarce)
    held_out = HeldOut([Example((5, 6), (IGNORED, 6))] * 9, PLAN, Ranks.alone(), CrossEntropy())
    with pytest.raises(MicroBatchTooLarge) as caught:
        held_out.score(load_base(tiny_model, torch.float32), RUNNING)
    assert (caught.value.shortage.rows, caught.value.shortage.tokens) == (4, 2)


def test_a_pair_that_does_not_fit_is_one_example() -> None:
    """It cannot be split, although it has two sequences."""
    pair = Pair(*[Example((5, 6), (IGNORED, 6))] * 2)
    for count in (1, 2):
        with (
            pytest.raises(MicroBatchTooLarge) as caught,
            reporting_out_of_memory([pair] * count, PLAN, torch.device("cpu")),
        ):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB.")
        assert caught.value.shortage.rows == count


@pytest.mark.full
def test_ranks_share_an_evaluation_with_the_result_of_one(trainer: Trainer) -> None:
    """Five examples in batches of two, so the second rank has one batch less."""
    chosen, rows = {"epochs": 1, "eval_steps": 5, "gradient_accumulation": 5}, chats(100)
    leader, follower = (
        [(each.step, each.eval_loss, each.accuracy) for each in rank.evaluations]
        for rank in trainer.run_ranks(trainer.spec(chosen, rows=rows, gpu_count=2))
    )
    assert leader == follower
    assert [step for step, _, _ in leader] == [0, 5]
    trainer.patch.setattr(segment, "choose_dtype", lambda device: torch.float32)
    alone = trainer.train(chosen, rows=rows)
    base = next(each for each in alone.evaluations if each.step == 0)
    assert leader[0] == pytest.approx((0, base.eval_loss, base.accuracy), rel=1e-5)
