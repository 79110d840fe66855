"""A job's steps, evaluations, checkpoints and log."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime

from fastapi.testclient import TestClient

from domain.core.aggregate import because
from domain.jobs.failures import FailureClass
from domain.jobs.job import Job, SegmentEnd
from domain.training.perplexity import perplexity
from infrastructure.artifacts import Artifacts
from infrastructure.measurements import add_log_line, add_step
from infrastructure.reports import EvaluationMeasured, LogLine, StepMeasured
from infrastructure.store import connect, open_pool
from services.projector.measuring import store_evaluations
from tests.builders.examples import ending, evaluation_result, saved_checkpoint
from tests.builders.platform import Platform
from tests.gateway.jobs.test_api import ready, uuid_of


def test_progress_comes_from_the_measurements(client: TestClient, platform: Platform) -> None:
    person, body = ready(platform)
    job_id = uuid_of(client.post("/api/jobs", json=body, headers=person.headers).json())
    now = datetime.now(UTC)
    with because(platform.cause):
        job = platform.log.load(Job, job_id)
        job.allocate_segment(1)
        job.start_pod(1, "pod", now)
        job.start_training(1, 0, 30, 9, 1)
        platform.log.commit(job)
    with connect(platform.settings) as connection:
        for step in (1, 2):
            add_step(
                connection,
                StepMeasured(
                    account_id=person.account_id,
                    job_id=job_id,
                    segment=1,
                    step=step,
                    total_steps=30,
                    train_loss=3.0 - step,
                    smoothed_loss=3.0 - step,
                    learning_rate=1e-4,
                    tokens=100,
                    tokens_per_second=50.0,
                    elapsed_seconds=2.0 * step,
                    peak_memory_bytes=1000 * step,
                    measured_at=now,
                ),
            )
    platform.project()
    shown = client.get(f"/api/jobs/{job_id}", headers=person.headers).json()
    assert (shown["step"], shown["steps_remaining"], shown["train_loss"]) == (2, 28, 1.0)
    assert (shown["tokens_per_second"], shown["segment"]) == (50.0, 1)
    assert shown["peak_memory_bytes"] == 2000
    assert shown["remaining_seconds"] > 0
    steps = client.get(f"/api/jobs/{job_id}/steps?after=1", headers=person.headers).json()["data"]
    assert [step["step"] for step in steps] == [2]
    with because(platform.cause):
        job = platform.log.load(Job, job_id)
        diverged = FailureClass.LOSS_DIVERGED
        job.end_segment(1, ending(SegmentEnd.CRASHED, 10, failure=diverged, error_class="Diverged"))
        platform.log.commit(job)
    platform.project()
    (listed,) = client.get("/api/jobs", headers=person.headers).json()["data"]
    assert (listed["status"], listed["step"]) == (
        "failed",
        2,
    )  # the list shows what the job's page shows


def test_evaluations_come_from_the_measurements(client: TestClient, platform: Platform) -> None:
    person, body = ready(platform)
    job_id = uuid_of(client.post("/api/jobs", json=body, headers=person.headers).json())

    def measured(segment: int, step: int, loss: float) -> EvaluationMeasured:
        return EvaluationMeasured(
            account_id=person.account_id,
            job_id=job_id,
            segment=segment,
            step=step,
            eval_loss=loss,
            accuracy=0.5,
            examples=4,
            label_tokens=40,
            seconds=1.5,
            elapsed_seconds=20.0,
            measured_at=datetime.now(UTC),
        )

    platform.project()
    path = f"/api/jobs/{job_id}"
    assert client.get(f"{path}/evaluations", headers=person.headers).json()["data"] == []
    assert client.get(path, headers=person.headers).json()["eval_loss"] is None
    messages = [measured(1, 50, 2.0), measured(1, 100, 1.5), measured(2, 100, 1.6)]
    messages.append(measured(3, 0, 2.5))  # of the base, by a segment that had only the end left
    with open_pool(platform.settings, max_size=1) as pool:
        sent = [each.model_dump(mode="json") for each in (*messages, messages[0])]
        no_room = sent[0] | {"step": 2**40}
        store_evaluations(pool, [sent[0], no_room, *sent[1:], {"step": 3}, "nonsense"])
    told = client.get(f"{path}/evaluations", headers=person.headers).json()["data"]
    assert [(each["step"], each["segment"], each["eval_loss"]) for each in told] == [
        (0, 3, 2.5),
        (50, 1, 2.0),
        (100, 2, 1.6),
    ]
    assert told[1]["perplexity"] == perplexity(2.0)
    shown = client.get(path, headers=person.headers).json()
    assert (shown["eval_step"], shown["eval_loss"]) == (100, 1.6)
    after = client.get(f"{path}/evaluations?after=50", headers=person.headers).json()["data"]
    assert [each["step"] for each in after] == [100]


def test_checkpoints_are_shown_with_their_samples_and_the_best_is_named(
    client: TestClient, platform: Platform
) -> None:
    person, body = ready(platform)
    job_id = uuid_of(client.post("/api/jobs", json=body, headers=person.headers).json())
    sample = {"prompt": [{"role": "user", "content": "Hi"}], "answer": "Hello."}
    Artifacts(platform.settings.artifacts).put("saved/20/sample.json", json.dumps(sample).encode())
    path = f"/api/jobs/{job_id}"

    def save(job: Job, step: int, eval_loss: float | None) -> None:
        ref = f"saved/{step}"
        job.save_checkpoint(
            saved_checkpoint(1, step, 2.0, step, ref, "c" * 64, 10, eval_loss=eval_loss)
        )

    with because(platform.cause):
        job = platform.log.load(Job, job_id)
        job.allocate_segment(1)
        job.start_pod(1, "pod", datetime.now(UTC))
        job.start_training(1, 0, 30, 9, 1)
        for step, eval_loss in ((10, 1.75), (20, 1.5), (30, None)):
            save(job, step, eval_loss)
        platform.log.commit(job)
    platform.project()
    told = client.get(f"{path}/checkpoints", headers=person.headers).json()["data"]
    assert [(each["step"], each["eval_loss"], each["best"]) for each in told] == [
        (10, 1.75, False),
        (20, 1.5, True),
        (30, None, False),
    ]
    assert [each["sample"] for each in told] == [None, sample, None]
    shown = client.get(path, headers=person.headers).json()
    assert (shown["best_step"], shown["best_eval_loss"], shown["best_note"]) == (20, 1.5, None)

    with because(platform.cause):
        job.start_evaluation(1, 30)
        job.complete_evaluation(1, evaluation_result(3.0, 1.6, 5, 400))
        platform.log.commit(job)
    platform.project()
    shown = client.get(path, headers=person.headers).json()
    assert (shown["best_step"], shown["best_eval_loss"]) == (20, 1.5)
    assert {"20", "1.5000"} <= set(re.findall(r"[\d.]*\d", shown["best_note"]))
    stranger = platform.person()
    assert client.get(f"{path}/checkpoints", headers=stranger.headers).status_code == 404


def test_a_failed_job_shows_its_kept_log_lines(client: TestClient, platform: Platform) -> None:
    person, body = ready(platform)
    job_id = uuid_of(client.post("/api/jobs", json=body, headers=person.headers).json())
    line = LogLine(
        account_id=person.account_id,
        job_id=job_id,
        segment=1,
        n=1,
        level="INFO",
        text="load\0ing",
        logged_at=datetime.now(UTC),
    )
    with connect(platform.settings) as connection:
        add_log_line(connection, line)
    log = f"/api/jobs/{job_id}/log"
    (shown,) = client.get(log, headers=person.headers).json()["data"]
    assert (shown["level"], shown["text"]) == ("INFO", "load\ufffding")

    Artifacts(platform.settings.artifacts).put("tail.log", b"one\ntwo\nMemoryError\n")
    with because(platform.cause):
        job = platform.log.load(Job, job_id)
        for segment in (1, 2, 3, 4):
            job.allocate_segment(segment)
            job.end_segment(
                segment,
                ending(SegmentEnd.CRASHED, 1, error_class="MemoryError", log_ref="tail.log"),
            )
        platform.log.commit(job)
    platform.project()
    shown = client.get(f"/api/jobs/{job_id}", headers=person.headers).json()
    assert (shown["status"], shown["error_class"]) == ("failed", "MemoryError")
    lines = client.get(f"{log}?lines=2", headers=person.headers).json()["data"]
    assert [line["text"] for line in lines] == ["two", "MemoryError"]
