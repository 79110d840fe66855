"""Jobs under /v1 that are created before their files are validated, through the real client."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import openai
import pytest
from fastapi.testclient import TestClient
from openai import OpenAI
from openai.types.fine_tuning import FineTuningJob

from domain.billing.account import Account
from domain.core.aggregate import because
from domain.jobs.job import Job
from gateway.http.openai_vocabulary import file_name, job_of
from gateway.jobs import requests as requested_jobs
from infrastructure.settings import Settings
from tests.builders.platform import BASE_MODEL, Person, Platform
from tests.gateway.conftest import ClientOf, application
from tests.gateway.jobs.test_openai_jobs import reject
from tests.openai_objects import whole
from tests.polling import eventually

DEADLINE_SECONDS = 60.0


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requested_jobs, "LOOK_SECONDS", 0.05)


pytestmark = pytest.mark.usefixtures("quick")


def early(platform: Platform, dollars: int = 10) -> tuple[Person, UUID, dict[str, Any]]:
    """A person with a file that is being validated, and the minimal request for a job on it."""
    person = platform.person(dollars=dollars)
    platform.base_model()
    dataset_id = platform.dataset(person, ready=False)
    return person, dataset_id, {"training_file": file_name(dataset_id), "model": BASE_MODEL}


def reached(client: OpenAI, job: FineTuningJob, status: str) -> FineTuningJob:
    """Poll until the job has a status, and return it."""
    eventually(lambda: client.fine_tuning.jobs.retrieve(job.id).status == status, DEADLINE_SECONDS)
    return whole(client.fine_tuning.jobs.retrieve(job.id))


def messages(client: OpenAI, job: FineTuningJob) -> list[str]:
    return [whole(each).message for each in client.fine_tuning.jobs.list_events(job.id)]


def test_a_job_is_answered_at_once_and_approved_when_its_files_are_ready(
    client_of: ClientOf, platform: Platform
) -> None:
    person, dataset_id, form = early(platform)
    client = client_of(person)
    jobs = client.fine_tuning.jobs
    job = whole(
        jobs.create(
            **form,
            validation_file=file_name(platform.dataset(person)),
            hyperparameters={"n_epochs": 2, "batch_size": 8},
            suffix="support",
            seed=7,
            metadata={"team": "a"},
        )
    )
    assert (job.status, job.model, job.seed) == ("validating_files", BASE_MODEL, 7)
    assert (job.error, job.finished_at, job.estimated_finish) == (None, None, None)
    assert (job.training_file, job.metadata) == (form["training_file"], {"team": "a"})
    assert (job.hyperparameters.n_epochs, job.hyperparameters.batch_size) == (2, 8)
    assert whole(jobs.retrieve(job.id)) == job
    assert whole(jobs.list().data[0]) == job
    assert [each.id for each in jobs.list(metadata={"team": "a"})] == [job.id]
    eventually(lambda: len(messages(client, job)) == 1)
    (requested,) = messages(client, job)
    assert list(jobs.checkpoints.list(job.id)) == []

    platform.validate(dataset_id, counted=False)
    platform.project()
    assert jobs.retrieve(job.id).status == "validating_files", "its tokens are not counted"
    assert platform.log.find(Job, job_of(job.id)) is None
    platform.count(dataset_id)
    queued = reached(client, job, "queued")
    assert (queued.id, queued.created_at, queued.metadata) == (
        *(job.id, job.created_at, job.metadata),
    )
    assert queued.hyperparameters == job.hyperparameters
    stored = platform.log.load(Job, job_of(job.id))
    assert (stored.order.suffix, stored.order.deploy) == ("support", True)
    assert [each.id for each in jobs.list()] == [job.id]
    eventually(lambda: len(messages(client, job)) == 3)
    assert messages(client, job)[-1] == requested


def test_a_rejected_file_fails_the_job_with_its_errors(
    client_of: ClientOf, platform: Platform
) -> None:
    person, dataset_id, form = early(platform)
    client = client_of(person)
    job = client.fine_tuning.jobs.create(**form)
    reject(platform, dataset_id)
    failed = reached(client, job, "failed")
    assert failed.error is not None
    assert (failed.error.code, failed.error.param) == ("file_rejected", "training_file")
    assert form["training_file"] in failed.error.message
    assert "line 3: it is no JSON" in failed.error.message
    assert failed.finished_at is not None
    assert [whole(each).status for each in client.fine_tuning.jobs.list()] == ["failed"]
    eventually(lambda: len(messages(client, job)) == 2)
    states = [
        each.state for each in platform.log.recorder.select_notifications(start=1, limit=1000)
    ]
    assert not any(b"it is no JSON" in state for state in states), "the log quotes no file"


def test_a_rejected_validation_file_is_named(client_of: ClientOf, platform: Platform) -> None:
    person, _, form = early(platform)
    client = client_of(person)
    own = platform.dataset(person, ready=False)
    job = client.fine_tuning.jobs.create(**form, validation_file=file_name(own))
    reject(platform, own)
    failed = reached(client, job, "failed")
    assert failed.error is not None
    assert failed.error.param == "validation_file"
    assert file_name(own) in failed.error.message


def test_a_deleted_file_fails_the_job(client_of: ClientOf, platform: Platform) -> None:
    person, dataset_id, form = early(platform)
    client = client_of(person)
    job = client.fine_tuning.jobs.create(**form)
    with because(platform.cause):
        platform.ecolink.delete_dataset(person.account_id, dataset_id, [])
    failed = reached(client, job, "failed")
    assert failed.error is not None
    assert (failed.error.code, failed.error.param) == ("not_found", "training_file")


def test_a_balance_that_is_too_low_fails_the_job_as_a_402_would(
    client_of: ClientOf, platform: Platform
) -> None:
    person, dataset_id, form = early(platform, dollars=0)
    platform.credit(person, 1)
    client = client_of(person)
    job = client.fine_tuning.jobs.create(**form)
    platform.validate(dataset_id)
    failed = reached(client, job, "failed")
    with pytest.raises(openai.APIStatusError) as refused:
        client.fine_tuning.jobs.create(**form)
    assert refused.value.status_code == 402
    body: Any = refused.value.body
    assert failed.error is not None
    assert (failed.error.code, failed.error.message) == (body["code"], body["message"])
    account = platform.log.load(Account, person.account_id)
    assert (account.balance_micros, account.available_micros) == (1, 1)


def test_a_request_is_cancelled_once_and_for_all(client_of: ClientOf, platform: Platform) -> None:
    person, dataset_id, form = early(platform)
    client = client_of(person)
    jobs = client.fine_tuning.jobs
    job, other = jobs.create(**form), jobs.create(**form)
    for command in (jobs.pause, jobs.resume):
        with pytest.raises(openai.ConflictError, match="validating_files"):
            command(job.id)
    cancelled = whole(jobs.cancel(job.id))
    assert (cancelled.status, cancelled.error) == ("cancelled", None)
    assert cancelled.finished_at is not None
    assert whole(jobs.cancel(job.id)) == cancelled
    platform.validate(dataset_id)
    reached(client, other, "queued")
    assert jobs.retrieve(job.id) == cancelled
    assert platform.log.find(Job, job_of(job.id)) is None
    assert [(each.id, each.status) for each in jobs.list(limit=1)] == [
        (other.id, "queued"),
        (job.id, "cancelled"),
    ]
    assert whole(jobs.cancel(other.id)).status == "cancelled"


def test_the_same_key_is_the_same_job_before_and_after_the_approval(
    client_of: ClientOf, platform: Platform
) -> None:
    person, dataset_id, form = early(platform)
    client = client_of(person)
    jobs = client.fine_tuning.jobs
    key = {"idempotency-key": "once"}

    def create(_: int) -> FineTuningJob:
        return jobs.create(**form, extra_headers=key)

    with ThreadPoolExecutor(4) as threads:
        made = list(threads.map(create, range(4)))
    assert len({each.id for each in made}) == 1
    assert len(list(jobs.list())) == 1
    assert_reused(client, form, key)
    platform.validate(dataset_id)
    reached(client, made[0], "queued")
    assert_reused(client, form, key)
    again = create(0)
    assert (again.id, again.status) == (made[0].id, "queued")
    assert platform.topics().count("JobApproved") == 1


def assert_reused(client: OpenAI, form: dict[str, Any], key: dict[str, str]) -> None:
    with pytest.raises(openai.ConflictError) as refused:
        client.fine_tuning.jobs.create(**form, seed=1, extra_headers=key)
    assert refused.value.code == "idempotency_key_reused"


def test_the_key_of_a_request_that_ended_is_the_same_job(
    client_of: ClientOf, platform: Platform
) -> None:
    person, dataset_id, form = early(platform)
    jobs = client_of(person).fine_tuning.jobs
    key = {"idempotency-key": "once"}
    job = jobs.create(**form, extra_headers=key)
    jobs.cancel(job.id)
    platform.validate(dataset_id)
    again = jobs.create(**form, extra_headers=key)
    assert (again.id, again.status) == (job.id, "cancelled")


def test_an_impossible_job_is_refused_at_once(client_of: ClientOf, platform: Platform) -> None:
    person, _, form = early(platform)
    jobs = client_of(person).fine_tuning.jobs
    for wrong in (
        {"model": "gpt-none"},
        {"training_file": f"file-{UUID(int=0).hex}"},
        {"validation_file": f"file-{UUID(int=0).hex}"},
        {"extra_body": {"gpu_type": "none"}},
        {"extra_body": {"lora_rank": 4}},
    ):
        with pytest.raises(openai.APIStatusError) as refused:
            jobs.create(**form | wrong)
        assert refused.value.status_code in (400, 404)
    assert list(jobs.list()) == []
    assert "JobRequested" not in platform.topics()


def test_another_accounts_request_is_not_found(client_of: ClientOf, platform: Platform) -> None:
    person, _, form = early(platform)
    job = client_of(person).fine_tuning.jobs.create(**form)
    theirs = client_of(platform.person()).fine_tuning.jobs
    for ask in (
        *(theirs.retrieve, theirs.cancel, theirs.pause),
        *(theirs.list_events, theirs.checkpoints.list),
    ):
        with pytest.raises(openai.NotFoundError):
            ask(job.id)
    assert list(theirs.list()) == []


def test_a_request_outlives_the_gateway(
    settings: Settings, platform: Platform, projecting: None
) -> None:
    person, dataset_id, form = early(platform)

    def client_on(transport: TestClient) -> OpenAI:
        return OpenAI(
            api_key=person.key,
            base_url="http://testserver/v1",
            http_client=transport,
            max_retries=0,
        )

    with TestClient(application(settings)) as first:
        job = client_on(first).fine_tuning.jobs.create(**form)
    platform.validate(dataset_id)
    with TestClient(application(settings)) as second:
        client = client_on(second)
        reached(client, job, "queued")
        assert [each.id for each in client.fine_tuning.jobs.list()] == [job.id]


def test_several_gateways_approve_a_job_once(
    client_of: ClientOf, platform: Platform, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requested_jobs, "LOOK_SECONDS", 3600.0)
    person, dataset_id, form = early(platform)
    job = client_of(person).fine_tuning.jobs.create(**form)
    platform.validate(dataset_id)
    backend = client.app.state.backend  # type: ignore[attr-defined]
    with ThreadPoolExecutor(4) as threads:
        for _ in threads.map(lambda _: requested_jobs.settle(backend, job_of(job.id)), range(4)):
            pass
    topics = platform.topics()
    assert (topics.count("JobApproved"), topics.count("JobRequestApproved")) == (1, 1)
