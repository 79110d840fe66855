"""A job's events, metrics, checkpoints and results under /v1, through the real client."""

from __future__ import annotations

import csv
import io
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import openai
import psycopg
import pytest
from fastapi.testclient import TestClient
from openai import OpenAI

from domain.core.aggregate import Cause, because
from domain.jobs.failures import FailureClass
from domain.jobs.job import Job, SegmentEnd
from gateway.http.openai_vocabulary import file_name, job_of
from gateway.jobs import results as measured
from gateway.jobs.describe import MINOR_TOPICS
from infrastructure.reports import EvaluationMeasured, StepMeasured
from infrastructure.store import open_pool
from services.projector.measuring import store_evaluations, store_steps
from tests.builders.examples import ending, evaluation_result, saved_checkpoint
from tests.builders.platform import BASE_MODEL, Person, Platform
from tests.gateway.conftest import ClientOf
from tests.openai_objects import whole

STEPS = 6
CHECKPOINT = 4


class Trained:
    """A job after six steps, with a checkpoint and an evaluation at step 4."""

    def __init__(self, client_of: ClientOf, client: TestClient, platform: Platform) -> None:
        self.platform, self.http = platform, client
        self.person: Person = platform.person(dollars=10)
        platform.base_model()
        self.client: OpenAI = client_of(self.person)
        self.name = self.client.fine_tuning.jobs.create(
            model=BASE_MODEL, training_file=file_name(platform.dataset(self.person)), suffix="s"
        ).id
        self.job_id: UUID = job_of(self.name)
        self.began = datetime.now(UTC)
        with because(self.cause(0)):
            job = platform.log.load(Job, self.job_id)
            job.allocate_segment(1)
            job.start_pod(1, "pod", self.began)
            job.start_training(1, 0, STEPS, 9, 1)
            platform.log.commit(job)
        self.measure()
        with because(self.cause(CHECKPOINT)):
            job = platform.log.load(Job, self.job_id)
            job.save_checkpoint(
                saved_checkpoint(1, CHECKPOINT, 2.5, 5, "c/4", "c" * 64, 9, eval_loss=2.25)
            )
            platform.log.commit(job)

    def cause(self, second: int) -> Cause:
        return Cause("service:test", f"at {second}", self.began + timedelta(seconds=second))

    def measure(self) -> None:
        common = {"account_id": self.person.account_id, "job_id": self.job_id, "segment": 1}
        steps = [
            StepMeasured(
                **common,
                step=step,
                total_steps=STEPS,
                train_loss=3.0 - step / 10,
                smoothed_loss=3.0 - step / 10,
                learning_rate=1e-4,
                tokens=100,
                tokens_per_second=50.0,
                elapsed_seconds=float(step),
                measured_at=self.began + timedelta(seconds=step),
            )
            for step in range(1, STEPS + 1)
        ]
        evaluation = EvaluationMeasured(
            **common,
            step=CHECKPOINT,
            eval_loss=2.25,
            accuracy=0.5,
            examples=1,
            label_tokens=40,
            seconds=1.0,
            elapsed_seconds=4.5,
            measured_at=self.began + timedelta(seconds=4.5),
        )
        with open_pool(self.platform.settings) as pool:
            store_steps(pool, [each.model_dump(mode="json") for each in steps])
            store_evaluations(pool, [evaluation.model_dump(mode="json")])

    def timeline(self) -> list[dict[str, Any]]:
        """Return the entries of the native timeline that /v1 also has."""
        path = f"/api/jobs/{self.name}/timeline"
        entries = self.http.get(path, headers=self.person.headers).json()["data"]
        return [each for each in entries if each["topic"] not in MINOR_TOPICS]

    def register(self) -> None:
        """Register the job's model."""
        with because(self.cause(STEPS + 1)):
            job = self.platform.log.load(Job, self.job_id)
            job.start_evaluation(1, STEPS)
            job.complete_evaluation(1, evaluation_result(3.0, 2.0, 1, 40))
            job.register(1, "adapter", "a" * 64)
            job.end_segment(1, ending(SegmentEnd.COMPLETED, 10))
            self.platform.log.commit(job)
        self.platform.project()

    def crash(self, failure: FailureClass, segment: int = 1) -> None:
        with because(self.cause(STEPS + 1)):
            job = self.platform.log.load(Job, self.job_id)
            job.end_segment(segment, ending(SegmentEnd.CRASHED, 10, failure=failure))
            self.platform.log.commit(job)
        self.platform.project()


@pytest.fixture
def trained(client_of: ClientOf, client: TestClient, platform: Platform) -> Trained:
    return Trained(client_of, client, platform)


def test_events_include_the_metrics_of_each_step(trained: Trained) -> None:
    trained.register()
    events = list(trained.client.fine_tuning.jobs.list_events(trained.name, limit=3))
    assert len({whole(each).id for each in events}) == len(events)
    messages = [each.message for each in events if each.type == "message"]
    timeline = trained.timeline()
    assert messages == [each["text"] for each in reversed(timeline)]
    topics = [each["topic"] for each in timeline]
    assert topics[-3:] == ["Registered", "SegmentEnded", "EstimateScored"]
    assert "ft:tiny:s:" in messages[2]

    metrics: list[Any] = [each.data for each in events if each.type == "metrics"]
    assert [each["step"] for each in metrics] == [6, 5, 4, 4, 3, 2, 1]
    assert all(each["total_steps"] == STEPS and each["train_loss"] > 0 for each in metrics)
    assert [each["valid_loss"] for each in metrics if "valid_loss" in each] == [2.25]
    with pytest.raises(openai.BadRequestError):
        trained.client.fine_tuning.jobs.list_events(trained.name, after="ftevent-none")


def test_events_include_the_deployment(trained: Trained) -> None:
    trained.register()
    deploying, account_id = trained.platform.deploying, trained.person.account_id
    with because(trained.cause(STEPS + 2)):
        deployment = deploying.deploy_model(account_id, trained.job_id)
        deployment.activate()
        trained.platform.log.commit(deployment)
    with because(trained.cause(STEPS + 3)):
        deploying.undeploy(account_id, deployment.model)
    trained.platform.project()
    told = trained.client.fine_tuning.jobs.list_events(trained.name, limit=2).data
    assert all(deployment.model in each.message for each in told)
    topics = [each["topic"] for each in trained.timeline()]
    assert topics[-3:] == ["DeploymentRequested", "DeploymentActivated", "Undeployed"]


def test_a_checkpoint_has_its_metrics_and_its_name(trained: Trained) -> None:
    trained.platform.project()
    (checkpoint,) = trained.client.fine_tuning.jobs.checkpoints.list(trained.name)
    whole(checkpoint)
    name = trained.platform.log.load(Job, trained.job_id).model_name
    assert checkpoint.fine_tuned_model_checkpoint == f"{name}:ckpt-step-{CHECKPOINT}"
    assert checkpoint.fine_tuning_job_id == trained.name
    metrics = checkpoint.metrics
    assert (checkpoint.step_number, metrics.train_loss) == (CHECKPOINT, 2.5)
    assert (metrics.valid_loss, metrics.valid_mean_token_accuracy) == (2.25, 0.5)


def test_a_page_after_a_pruned_checkpoint_has_the_older_ones(trained: Trained) -> None:
    trained.platform.project()
    checkpoints = trained.client.fine_tuning.jobs.checkpoints
    (saved,) = checkpoints.list(trained.name)
    gone, first = f"ftckpt-{trained.job_id.hex}-2-9", f"ftckpt-{trained.job_id.hex}-1-2"
    assert [each.id for each in checkpoints.list(trained.name, after=gone)] == [saved.id]
    for after in (saved.id, first):
        assert list(checkpoints.list(trained.name, after=after)) == []
    for after in ("ftckpt-none", f"ftckpt-{'0' * 32}-1-4"):
        with pytest.raises(openai.BadRequestError):
            checkpoints.list(trained.name, after=after)


def test_a_running_job_has_an_estimated_finish(trained: Trained) -> None:
    trained.platform.project()
    job = whole(trained.client.fine_tuning.jobs.retrieve(trained.name))
    assert job.status == "running"
    assert job.estimated_finish is not None
    assert (job.trained_tokens, job.finished_at, job.result_files) == (None, None, [])


def test_a_job_that_waits_to_retry_is_queued(trained: Trained) -> None:
    trained.crash(FailureClass.NODE_LOST)
    with because(trained.cause(STEPS + 2)):
        job = trained.platform.log.load(Job, trained.job_id)
        job.allocate_segment(2)
        trained.platform.log.commit(job)
    trained.crash(FailureClass.NODE_LOST, 2)
    shown = whole(trained.client.fine_tuning.jobs.retrieve(trained.name))
    assert shown.status == "queued"
    events = trained.client.fine_tuning.jobs.list_events(trained.name).data
    postponed = trained.timeline()[-1]
    assert postponed["topic"] == "RelaunchPostponed"
    assert ("warn", postponed["text"]) in [(each.level, each.message) for each in events]


def test_a_job_that_succeeded_has_a_model_tokens_and_results(trained: Trained) -> None:
    trained.register()
    job = whole(trained.client.fine_tuning.jobs.retrieve(trained.name))
    assert job.status == "succeeded"
    assert job.fine_tuned_model is not None
    assert (job.trained_tokens, job.error, job.estimated_finish) == (STEPS * 100, None, None)
    assert job.finished_at == int((trained.began + timedelta(seconds=STEPS + 1)).timestamp())

    (result,) = job.result_files
    files = trained.client.files
    shown = whole(files.retrieve(result))
    assert [whole(each) for each in files.list(purpose="fine-tune-results")] == [shown]
    content = files.content(result).content
    assert (shown.purpose, shown.bytes) == ("fine-tune-results", len(content))
    rows = list(csv.DictReader(io.StringIO(content.decode())))
    assert [row["step"] for row in rows] == ["1", "2", "3", "4", "5", "6"]
    assert (rows[3]["train_loss"], rows[3]["valid_loss"], rows[0]["valid_loss"]) == (
        "2.6",
        "2.25",
        "",
    )
    with pytest.raises(openai.ConflictError):
        files.delete(result)


def test_trained_tokens_appear_with_the_last_step(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measured, "WAIT_SECONDS", 0.05)
    with psycopg.connect(trained.platform.settings.owner_database_url or "") as owner:
        owner.execute("DELETE FROM step_measurements WHERE step = %s", [STEPS])
    trained.register()
    jobs = trained.client.fine_tuning.jobs
    assert jobs.retrieve(trained.name).trained_tokens is None
    monkeypatch.setattr(measured, "WAIT_SECONDS", 60.0)
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(jobs.retrieve, trained.name)
        trained.measure()
        assert waiting.result().trained_tokens == STEPS * 100


@pytest.mark.parametrize("limit", [1, 2, 5])
def test_pages_of_events_have_each_once_and_in_order(trained: Trained, limit: int) -> None:
    trained.register()
    list_events = trained.client.fine_tuning.jobs.list_events
    whole_story = [each.id for each in list_events(trained.name, limit=100).data]
    assert [each.id for each in list_events(trained.name, limit=limit)] == whole_story


def test_a_failed_job_has_its_error(trained: Trained) -> None:
    trained.crash(FailureClass.BAD_DATA)
    job = whole(trained.client.fine_tuning.jobs.retrieve(trained.name))
    assert job.status == "failed"
    assert job.error is not None
    assert (job.error.code, job.error.param) == ("bad_data", "training_file")
    assert "start a new job" in job.error.message
    newest = trained.client.fine_tuning.jobs.list_events(trained.name).data[0]
    assert (newest.level, trained.timeline()[-1]["topic"]) == ("error", "JobFailed")
