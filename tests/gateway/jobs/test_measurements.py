"""A job's steps, evaluations, checkpoints and log."""

from __future__ import annotations

import json

from domain.jobs.failures import FailureClass
from domain.jobs.lifecycle import SegmentEnd
from domain.training.perplexity import perplexity
from infrastructure.artifacts.store import Artifacts
from infrastructure.postgres.store import open_pool
from infrastructure.training.measurements import add_evaluation
from infrastructure.training.reports import EvaluationMeasured
from services.projector.measuring import store
from tests.builders.examples import ending
from tests.builders.platform import Platform
from tests.gateway.jobs.owners import Owner


def test_progress_comes_from_the_measurements(owner: Owner, platform: Platform) -> None:
    owner.train(checkpoint=None)
    owner.add_steps(1, peak_memory_bytes=1000)
    owner.add_steps(2, peak_memory_bytes=2000, gpu_utilization=0.97, gpu_memory_bytes=3000)
    platform.project()
    shown = owner.read()
    assert (shown["step"], shown["steps_remaining"], shown["train_loss"]) == (2, 28, 1.98)
    assert (shown["tokens_per_second"], shown["segment"]) == (1234.0, 1)
    assert shown["peak_memory_bytes"] == 2000
    assert shown["remaining_seconds"] > 0
    assert shown["gpu_utilization"] == 0.97
    (step,) = owner.read("/steps?after=1")["data"]
    assert (step["step"], step["gpu_memory_bytes"]) == (2, 3000)
    owner.crash(FailureClass.LOSS_DIVERGED)
    platform.project()
    (listed,) = owner.client.get("/api/jobs", headers=owner.person.headers).json()["data"]
    assert (listed["status"], listed["step"]) == ("failed", 2)


def test_evaluations_come_from_the_measurements(owner: Owner, platform: Platform) -> None:
    platform.project()
    assert owner.read("/evaluations")["data"] == []
    assert owner.read()["eval_loss"] is None
    measured = [
        owner.evaluation(step, segment, eval_loss=loss).model_dump(mode="json")
        # The last segment had only the evaluation of the base model left.
        for segment, step, loss in ((1, 50, 2.0), (1, 100, 1.5), (2, 100, 1.6), (3, 0, 2.5))
    ]
    no_room = measured[0] | {"step": 2**40}
    with open_pool(platform.settings, max_size=1) as pool:
        messages = [no_room, *measured, measured[0], {"step": 3}, "nonsense"]
        store(EvaluationMeasured, add_evaluation, pool, messages)
    shown = owner.read("/evaluations")["data"]
    assert [(each["step"], each["segment"], each["eval_loss"]) for each in shown] == [
        (0, 3, 2.5),
        (50, 1, 2.0),
        (100, 2, 1.6),
    ]
    assert shown[1]["perplexity"] == perplexity(2.0)
    job = owner.read()
    assert (job["eval_step"], job["eval_loss"]) == (100, 1.6)
    assert [each["step"] for each in owner.read("/evaluations?after=50")["data"]] == [100]


def test_checkpoints_have_samples_and_the_best_is_named(owner: Owner, platform: Platform) -> None:
    sample = {"prompt": [{"role": "user", "content": "Hi"}], "answer": "Hello."}
    Artifacts(platform.settings.artifacts).put("saved/20/sample.json", json.dumps(sample).encode())
    owner.train(checkpoint=None)
    for step, eval_loss in ((10, 1.75), (20, 1.125), (30, None)):
        owner.save(step, ref=f"saved/{step}", eval_loss=eval_loss)
    platform.project()
    shown = owner.read("/checkpoints")["data"]
    assert [(each["step"], each["eval_loss"], each["best"], each["sample"]) for each in shown] == [
        (10, 1.75, False, None),
        (20, 1.125, True, sample),
        (30, None, False, None),
    ]
    job = owner.read()
    assert (job["best_step"], job["best_eval_loss"], job["best_note"]) == (20, 1.125, None)

    owner.evaluate()
    owner.score()
    platform.project()
    job = owner.read()
    assert (job["best_step"], job["best_eval_loss"]) == (20, 1.125)
    assert "1.1250" in job["best_note"]
    stranger = platform.person()
    path = f"{owner.path}/checkpoints"
    assert owner.client.get(path, headers=stranger.headers).status_code == 404


def test_the_registered_state_has_one_loss(owner: Owner, platform: Platform) -> None:
    """The trainer scores a restored checkpoint again, which may differ in the last digits."""
    owner.train(checkpoint=None)
    for step, eval_loss in ((10, 1.75), (12, 1.249), (20, 1.5)):
        owner.save(step, eval_loss=eval_loss)
    owner.add_evaluation(20, eval_loss=1.5)
    owner.evaluate()
    owner.score(step=12, final_loss=1.5)
    platform.project()
    shown = owner.read("/checkpoints")["data"]
    assert [(each["step"], each["eval_loss"], each["best"]) for each in shown] == [
        (10, 1.75, False),
        (12, 1.25, True),
        (20, 1.5, False),
    ]
    job = owner.read()
    assert (job["best_step"], job["best_eval_loss"]) == (12, 1.25)
    assert (job["eval_step"], job["eval_loss"], job["loss_after"]) == (12, 1.25, 1.25)
    assert "best state" in job["best_note"]


def test_a_failed_job_shows_its_stored_output(owner: Owner, platform: Platform) -> None:
    owner.add_lines(1, "load\0ing")
    (line,) = owner.read("/log")["data"]
    assert (line["level"], line["text"]) == ("INFO", "load\ufffding")

    Artifacts(platform.settings.artifacts).put("tail.log", b"one\ntwo\nMemoryError\n")
    crash = ending(SegmentEnd.CRASHED, 1, error_class="MemoryError", log_ref="tail.log")
    for segment in (1, 2, 3, 4):
        owner.act(
            lambda job, segment=segment: job.allocate_segment(segment),
            lambda job, segment=segment: job.end_segment(segment, crash),
        )
    platform.project()
    job = owner.read()
    assert (job["status"], job["error_class"]) == ("failed", "MemoryError")
    lines = owner.read("/log?lines=2")["data"]
    assert [line["text"] for line in lines] == ["two", "MemoryError"]
