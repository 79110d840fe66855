"""Evaluations between the steps and at the end, and their examples."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from domain.estimating.pricing import VALIDATION_MAXIMUM
from domain.jobs.lifecycle import SegmentEnd
from domain.training.evaluation import EvaluationResult
from domain.training.perplexity import perplexity
from infrastructure.artifacts import Artifacts
from infrastructure.chat_labels import IGNORED, Example
from infrastructure.reports import SegmentSpec
from services.trainer import evaluation, segment
from services.trainer.batches import collate, loss_sum, scored
from services.trainer.clock import SegmentClock
from services.trainer.dataset import DatasetTooSmall
from services.trainer.evaluation import HeldOut, Score
from services.trainer.failures import LossDiverged
from services.trainer.lease import Lease
from services.trainer.model import load_base
from services.trainer.oom import MicroBatchTooLarge
from services.trainer.plan import Plan
from services.trainer.processes.ranks import Ranks
from tests.services.trainer.conftest import SpecMaker, chats
from tests.services.trainer.group import run_ranks
from tests.services.trainer.notes import Notes, resuming

CPU = torch.device("cpu")
RUNNING = Lease(SegmentClock(0.0), math.inf, math.inf)
PLAN = Plan(lengths=(2,), epochs=1, micro_batch_size=4, gradient_accumulation=2, seed=42)
MEBIBYTE = 1024**2


def adapter(artifacts: Artifacts, spec: SegmentSpec) -> str:
    files = artifacts.manifest(spec.adapter_prefix).files
    return next(file.sha256 for file in files if file.path == "adapter_model.safetensors")


def with_validation(
    artifacts: Artifacts, spec: SegmentSpec, rows: list[dict[str, Any]]
) -> SegmentSpec:
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    artifacts.put("datasets/own.jsonl", content)
    sha256 = hashlib.sha256(content).hexdigest()
    return spec.model_copy(
        update={"validation_ref": "datasets/own.jsonl", "validation_sha256": sha256}
    )


def position(artifacts: Artifacts, ref: str) -> dict[str, Any]:
    return json.loads(artifacts.get(f"{ref}/position.json"))


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
    taught = Example((5, 6, right), (IGNORED, IGNORED, right))
    assert scored(model, collate([taught], CPU))[1] == 1


def test_evaluations_between_the_steps_change_nothing(
    run, make_spec: SpecMaker, artifacts: Artifacts
) -> None:
    rarely, often = ({"dropout": 0.1, "save_steps": 4, "eval_steps": n} for n in (1000, 3))
    expected, spec = make_spec(rarely), make_spec(often)
    plain, evaluated = run(expected), run(spec)
    assert [each.step for each in plain.evaluations] == [0, 10]
    assert [each.step for each in evaluated.evaluations] == [3, 6, 9, 0, 10]
    assert [each.train_loss for each in evaluated.steps] == [
        each.train_loss for each in plain.steps
    ]
    assert adapter(artifacts, spec) == adapter(artifacts, expected)
    assert evaluated.fields["evaluation"] == plain.fields["evaluation"]
    assert evaluated.evaluations[-1].eval_loss == evaluated.fields["evaluation"].loss_after


def test_a_checkpoint_carries_the_evaluation_of_its_step(
    run, make_spec: SpecMaker, artifacts: Artifacts
) -> None:
    notes = run(make_spec({"save_steps": 4}))
    by_step = {each.step: each.eval_loss for each in notes.evaluations}
    saved = [position(artifacts, each.ref) for each in notes.checkpoints]
    assert [each["step"] for each in saved] == [4, 8, 10]
    # The last one is evaluated by the phase that is for it.
    assert [each["eval_loss"] for each in saved] == [by_step[4], by_step[8], None]
    assert saved[-1]["best_eval_loss"] == min(by_step[4], by_step[8])


def test_a_stop_ends_an_evaluation_and_saves_the_step(
    run, make_spec: SpecMaker, artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = {"save_steps": 4, "dropout": 0.1}
    whole, first = make_spec(chosen, rows=chats(60)), make_spec(chosen, rows=chats(60))
    expected = run(whole)
    real, asked = Notes.measure, []

    def measure(notes: Notes, measured: Any) -> None:
        real(notes, measured)
        asked[:] = [notes.lease] if measured.step == 4 else []

    def collate_and_stop(*arguments: Any) -> Any:
        if asked:
            asked[0].request_stop()
        return collate(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Notes, "measure", measure)
        patch.setattr(evaluation, "collate", collate_and_stop)
        stopped = run(first)
    assert stopped.fields["outcome"] is SegmentEnd.STOPPED
    assert not stopped.evaluations
    assert [each.step for each in stopped.checkpoints] == [4]
    ref = stopped.checkpoints[-1].ref
    assert position(artifacts, ref)["eval_loss"] is None
    again = resuming(first, stopped.checkpoints[-1])
    resumed = run(again)
    assert resumed.fields["evaluation"] == expected.fields["evaluation"]
    assert adapter(artifacts, again) == adapter(artifacts, whole)


def test_the_final_adapter_is_registered_and_a_better_checkpoint_logged(
    run, make_spec: SpecMaker, artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if an earlier segment saved the better one."""
    losses = iter([2.0, 2.4, 2.9, 3.0, 2.3])

    def score(*_: object) -> Score:
        return Score(next(losses), 0.5, 10)

    monkeypatch.setattr(HeldOut, "score", score)
    spec = make_spec({"save_steps": 3})
    first = run(spec, stop_after=6)
    last = first.checkpoints[-1]
    assert position(artifacts, last.ref)["best_step"] == 3
    resumed = run(resuming(spec, last))
    (told,) = [line for line in resumed.warnings if "held-out loss" in line]
    assert "step 3" in told
    assert "2.3000" in told
    assert resumed.fields["evaluation"].loss_after == 2.3


def test_the_lowest_held_out_loss_so_far_is_saved_between_two_checkpoints(
    run, make_spec: SpecMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of equal ones the first, also if an earlier segment saved it."""
    losses = iter([2.0, 2.0, 1.9, 3.0, 2.3])

    def score(*_: object) -> Score:
        return Score(next(losses), 0.5, 10)

    monkeypatch.setattr(HeldOut, "score", score)
    spec = make_spec({"save_steps": 4, "eval_steps": 3})
    first = run(spec, stop_after=5)
    assert [(each.step, each.eval_loss) for each in first.checkpoints] == [
        (3, 2.0),
        (4, None),
        (5, None),
    ]
    resumed = run(resuming(spec, first.checkpoints[-1]))
    assert [(each.step, each.eval_loss) for each in resumed.checkpoints] == [
        (8, None),
        (9, 1.9),
        (10, None),
    ]
    assert any("step 9" in line for line in resumed.warnings)


def test_a_resume_from_the_best_checkpoint_equals_the_uninterrupted_run(
    run, make_spec: SpecMaker, artifacts: Artifacts
) -> None:
    """It saves the same steps with the same state and numbers."""
    spec = make_spec({"save_steps": 4, "eval_steps": 3, "dropout": 0.1})
    whole = run(spec)
    assert whole.checkpoints[0].step == 3
    again = resuming(spec, whole.checkpoints[0])
    resumed = run(again)
    assert [position(artifacts, each.ref) for each in resumed.checkpoints] == [
        position(artifacts, each.ref) for each in whole.checkpoints[1:]
    ]
    assert resumed.fields["evaluation"] == whole.fields["evaluation"]


@pytest.mark.full
def test_a_validation_file_leaves_the_whole_dataset_to_training(
    run, make_spec: SpecMaker, artifacts: Artifacts
) -> None:
    rows = chats(400)[20:]
    spec = with_validation(artifacts, make_spec({"epochs": 1, "save_steps": 3}), rows)
    notes = run(spec)
    assert notes.fields["train_examples"] == 20
    assert notes.fields["eval_examples"] == VALIDATION_MAXIMUM
    assert notes.fields["evaluation"].examples == VALIDATION_MAXIMUM
    assert any("256" in line and "380" in line for line in notes.lines)
    again = run(resuming(spec, notes.checkpoints[0]))
    assert again.fields["evaluation"] == notes.fields["evaluation"]
    few = run(with_validation(artifacts, make_spec(rows=chats(1)), rows[:3]))
    assert (few.fields["train_examples"], few.fields["eval_examples"]) == (1, 3)


def test_a_validation_file_without_an_answer_to_learn_is_named(
    run, make_spec: SpecMaker, artifacts: Artifacts
) -> None:
    silent = [{"messages": [{"role": "user", "content": "Anybody?"}]}]
    with pytest.raises(DatasetTooSmall, match="validation"):
        run(with_validation(artifacts, make_spec(), silent))


def test_the_evaluation_has_perplexity_and_accuracy(run, make_spec: SpecMaker) -> None:
    notes = run(make_spec({"epochs": 6, "learning_rate": 0.1}))
    scored: EvaluationResult = notes.fields["evaluation"]
    assert scored.accuracy_before is not None
    assert scored.accuracy_after is not None
    assert 0 <= scored.accuracy_before < scored.accuracy_after <= 1
    told = f"perplexity {math.exp(scored.loss_after):.4g}, {scored.accuracy_after:.1%}"
    assert any(told in line for line in notes.lines)
    assert perplexity(10_000.0) == perplexity(700.0)


def test_a_nan_held_out_loss_ends_the_run(tiny_model) -> None:
    model = load_base(tiny_model, torch.float32)
    torch.nn.init.constant_(model.get_input_embeddings().weight, math.nan)
    held_out = HeldOut([Example((5, 6), (IGNORED, 6))], PLAN, Ranks.alone())
    with pytest.raises(LossDiverged, match="nan"):
        held_out.score(model, RUNNING)


def test_out_of_memory_in_evaluation_names_the_batch(
    tiny_model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scheduler then halves it."""

    def scarce(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB.")

    monkeypatch.setattr(evaluation, "scored", scarce)
    held_out = HeldOut([Example((5, 6), (IGNORED, 6))] * 9, PLAN, Ranks.alone())
    with pytest.raises(MicroBatchTooLarge) as caught:
        held_out.score(load_base(tiny_model, torch.float32), RUNNING)
    assert (caught.value.shortage.rows, caught.value.shortage.tokens) == (4, 2)


@pytest.mark.full
def test_ranks_share_an_evaluation_with_the_result_of_one(
    run, make_spec: SpecMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five examples in batches of two, so the second rank has one batch less."""
    chosen, rows = {"epochs": 1, "eval_steps": 5, "gradient_accumulation": 5}, chats(100)
    spec = make_spec(chosen, rows=rows, gpu_count=2)
    told = [
        [(each.step, each.eval_loss, each.accuracy) for each in rank.evaluations]
        for rank in run_ranks(spec, tmp_path / "artifacts", tmp_path / "group")
    ]
    assert told[0] == told[1]
    assert [step for step, _, _ in told[0]] == [0, 5]
    monkeypatch.setattr(segment, "choose_dtype", lambda device: torch.float32)
    alone = run(make_spec(chosen, rows=rows))
    base = next(each for each in alone.evaluations if each.step == 0)
    assert told[0][0] == pytest.approx((0, base.eval_loss, base.accuracy), rel=1e-5)


def test_peak_memory_is_reported_during_and_after_the_run(run, make_spec: SpecMaker) -> None:
    notes = run(make_spec())
    peaks = [each.peak_memory_bytes or 0 for each in notes.steps]
    assert peaks == sorted(peaks)
    assert peaks[0] > 100 * MEBIBYTE
    assert notes.fields["peak_memory_bytes"] >= peaks[-1]
