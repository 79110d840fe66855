"""A job's events, metrics, checkpoints and results under /v1, through OpenAI's client."""

from __future__ import annotations

import csv
import io
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import openai
import psycopg
import pytest
from fastapi.testclient import TestClient

from domain.core.aggregate import because
from domain.jobs.failures import FailureClass
from domain.jobs.lifecycle import SegmentEnd
from gateway.jobs import results
from tests.builders.platform import Platform
from tests.gateway.conftest import ClientOf
from tests.gateway.jobs.owners import Trained
from tests.openai_objects import whole


@pytest.fixture
def trained(client_of: ClientOf, client: TestClient, platform: Platform) -> Trained:
    return Trained(client_of, client, platform)


def finish(trained: Trained) -> None:
    """Register the job's model and end the job."""
    trained.register()
    trained.end(reason=SegmentEnd.COMPLETED)
    trained.platform.project()


def test_events_include_the_metrics_of_each_step(trained: Trained) -> None:
    finish(trained)
    list_events = trained.client.fine_tuning.jobs.list_events
    events = list(list_events(trained.name, limit=100))
    assert len({whole(each).id for each in events}) == len(events)
    for limit in (1, 2, 5):
        assert list(list_events(trained.name, limit=limit)) == events
    messages = [each.message for each in events if each.type == "message"]
    timeline = trained.timeline()
    assert messages == [each["text"] for each in reversed(timeline)]
    topics = [each["topic"] for each in timeline]
    assert topics[-3:] == ["Registered", "SegmentEnded", "EstimateScored"]

    metrics: list[Any] = [each.data for each in events if each.type == "metrics"]
    assert [each["step"] for each in metrics] == [6, 5, 4, 4, 3, 2, 1]
    assert all(each["total_steps"] == 6 and each["train_loss"] > 0 for each in metrics)
    assert [each["valid_loss"] for each in metrics if "valid_loss" in each] == [2.25]
    with pytest.raises(openai.BadRequestError):
        list_events(trained.name, after="ftevent-none")


def test_events_include_the_deployment(trained: Trained) -> None:
    model = trained.register()
    with because(trained.platform.cause):
        trained.platform.deploying.deploy_model(trained.person.account_id, trained.job_id)
    trained.at(8)
    trained.serve(model)
    timeline = trained.timeline()
    assert [each["topic"] for each in timeline[-2:]] == [
        "DeploymentRequested",
        "DeploymentActivated",
    ]
    newest = trained.client.fine_tuning.jobs.list_events(trained.name, limit=1).data[0]
    assert newest.message == timeline[-1]["text"]


def test_a_checkpoint_has_its_metrics_and_its_name(trained: Trained) -> None:
    (checkpoint,) = trained.client.fine_tuning.jobs.checkpoints.list(trained.name)
    whole(checkpoint)
    name = f"{trained.job.model_name}:ckpt-step-4"
    assert checkpoint.fine_tuned_model_checkpoint == name
    assert checkpoint.fine_tuning_job_id == trained.name
    metrics = checkpoint.metrics
    assert (checkpoint.step_number, metrics.train_loss) == (4, 2.0)
    assert (metrics.valid_loss, metrics.valid_mean_token_accuracy) == (2.25, 0.5)


def test_a_page_after_a_pruned_checkpoint_has_the_older_ones(trained: Trained) -> None:
    checkpoints = trained.client.fine_tuning.jobs.checkpoints
    (saved,) = checkpoints.list(trained.name)
    pruned, first = f"ftckpt-{trained.job_id.hex}-2-9", f"ftckpt-{trained.job_id.hex}-1-2"
    assert [each.id for each in checkpoints.list(trained.name, after=pruned)] == [saved.id]
    for after in (saved.id, first):
        assert list(checkpoints.list(trained.name, after=after)) == []
    for after in ("ftckpt-none", f"ftckpt-{'0' * 32}-1-4"):
        with pytest.raises(openai.BadRequestError):
            checkpoints.list(trained.name, after=after)


def test_a_running_job_has_an_estimated_finish(trained: Trained) -> None:
    job = whole(trained.client.fine_tuning.jobs.retrieve(trained.name))
    assert job.status == "running"
    assert job.estimated_finish is not None
    assert (job.trained_tokens, job.finished_at, job.result_files) == (None, None, [])


def test_a_job_that_waits_to_retry_is_queued(trained: Trained) -> None:
    trained.crash(FailureClass.NODE_LOST)
    trained.act(lambda job: job.allocate_segment(2))
    trained.at(8)
    trained.crash(FailureClass.NODE_LOST, 2)
    postponed = trained.timeline()[-1]
    assert whole(trained.client.fine_tuning.jobs.retrieve(trained.name)).status == "queued"
    events = trained.client.fine_tuning.jobs.list_events(trained.name).data
    assert postponed["topic"] == "RelaunchPostponed"
    assert ("warn", postponed["text"]) in [(each.level, each.message) for each in events]


def test_a_succeeded_job_has_a_model_tokens_and_results(trained: Trained) -> None:
    finish(trained)
    job = whole(trained.client.fine_tuning.jobs.retrieve(trained.name))
    assert job.status == "succeeded"
    assert job.fine_tuned_model is not None
    assert (job.trained_tokens, job.error, job.estimated_finish) == (600, None, None)
    assert job.finished_at == int((trained.began + timedelta(seconds=7)).timestamp())

    (result,) = job.result_files
    files = trained.client.files
    shown = whole(files.retrieve(result))
    assert [whole(each) for each in files.list(purpose="fine-tune-results")] == [shown]
    content = files.content(result).content
    assert (shown.purpose, shown.bytes) == ("fine-tune-results", len(content))
    rows = list(csv.DictReader(io.StringIO(content.decode())))
    assert [row["step"] for row in rows] == ["1", "2", "3", "4", "5", "6"]
    assert [rows[3]["train_loss"], rows[3]["valid_loss"], rows[0]["valid_loss"]] == [
        *("1.96", "2.25", "")
    ]
    with pytest.raises(openai.ConflictError):
        files.delete(result)


@pytest.mark.full
def test_dpo_has_rewards_in_its_events_checkpoints_and_results(trained: Trained) -> None:
    with psycopg.connect(trained.platform.settings.owner_database_url or "") as owner:
        owner.execute(
            "UPDATE step_measurements SET accuracy = 0.75, chosen_reward = 0.5, "
            "rejected_reward = -0.25"
        )
        owner.execute(
            "UPDATE evaluation_measurements SET accuracy = 1, chosen_reward = 1, "
            "rejected_reward = -1"
        )
    jobs = trained.client.fine_tuning.jobs
    events = [each for each in jobs.list_events(trained.name) if each.type == "metrics"]
    shown: list[Any] = [each.data for each in events]
    assert all(each["train_reward_margin"] == 0.75 for each in shown if "learning_rate" in each)
    assert any("reward margin=0.7500" in each.message for each in events)
    (saved,) = jobs.checkpoints.list(trained.name)
    metrics = saved.metrics.model_dump()
    assert (metrics["valid_reward_margin"], metrics["valid_reward_accuracy"]) == (2, 1)
    assert metrics["valid_mean_token_accuracy"] is None
    finish(trained)
    (result,) = jobs.retrieve(trained.name).result_files
    content = trained.client.files.content(result).content
    assert trained.client.files.retrieve(result).bytes == len(content)
    rows = list(csv.DictReader(io.StringIO(content.decode())))
    assert rows[0]["train_chosen_reward"] == "0.5"
    assert rows[0]["train_rejected_reward"] == "-0.25"
    assert rows[3]["valid_reward_accuracy"] == "1"
    with psycopg.connect(trained.platform.settings.owner_database_url or "") as owner:
        owner.execute("DELETE FROM step_measurements WHERE step = 4")
    content = trained.client.files.content(result).content
    assert trained.client.files.retrieve(result).bytes == len(content)
    lines = list(csv.reader(io.StringIO(content.decode())))
    assert {len(line) for line in lines} == {11}
    lost = dict(zip(lines[0], lines[4], strict=True))
    assert (lost["step"], lost["train_loss"], lost["valid_chosen_reward"]) == ("4", "", "1")


def test_trained_tokens_appear_with_the_last_step(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "WAIT_SECONDS", 0.05)
    with psycopg.connect(trained.platform.settings.owner_database_url or "") as owner:
        owner.execute("DELETE FROM step_measurements WHERE step = 6")
    finish(trained)
    jobs = trained.client.fine_tuning.jobs
    assert jobs.retrieve(trained.name).trained_tokens is None
    monkeypatch.setattr(results, "WAIT_SECONDS", 60.0)
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(jobs.retrieve, trained.name)
        trained.measure()
        assert waiting.result().trained_tokens == 600


def test_a_failed_job_has_its_error(trained: Trained) -> None:
    trained.crash(FailureClass.BAD_DATA)
    assert trained.timeline()[-1]["topic"] == "JobFailed"
    job = whole(trained.client.fine_tuning.jobs.retrieve(trained.name))
    assert job.status == "failed"
    assert job.status == "failed"
    assert job.error is not None
    assert (job.error.code, job.error.param) == ("bad_data", "training_file")
    newest = trained.client.fine_tuning.jobs.list_events(trained.name).data[0]
    assert newest.level == "error"
