"""Jobs under /v1 that are created before their files are validated, through OpenAI's client."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import openai
import pytest
from fastapi.testclient import TestClient
from openai import OpenAI
from openai.types.fine_tuning import FineTuningJob

from domain.core.aggregate import because
from domain.jobs.job import Job
from gateway.http.openai_vocabulary import file_name, job_of
from gateway.jobs import requests
from infrastructure.settings import Settings
from tests.builders.entries import Entries, entries_of
from tests.builders.platform import BASE_MODEL, Platform
from tests.gateway.conftest import application
from tests.gateway.jobs.owners import ClientOf, OpenAIJobs, notes_in
from tests.gateway.web.signed_in import signed_in
from tests.openai_objects import whole
from tests.polling import eventually

KEY = {"idempotency-key": "once"}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look for open requests often."""
    monkeypatch.setattr(requests, "POLL_SECONDS", 0.05)


class Early(OpenAIJobs):
    """A person with a file that is being validated."""

    def reached(self, job: FineTuningJob, status: str) -> FineTuningJob:
        """Poll until the job has a status, and return it."""
        eventually(lambda: self.api.retrieve(job.id).status == status)
        return whole(self.api.retrieve(job.id))

    def messages(self, job: FineTuningJob, count: int) -> list[str]:
        """Return the messages of the job's events once there are so many."""
        eventually(lambda: len(self.api.list_events(job.id).data) == count)
        return [whole(each).message for each in self.api.list_events(job.id)]


@pytest.fixture
def early(client_of: ClientOf, platform: Platform) -> Early:
    return Early.of(platform, client_of, ready=False)


def test_unusual_hyperparameters_have_a_warning_while_a_cancel_is_free(early: Early) -> None:
    job = early.create(hyperparameters={"learning_rate_multiplier": 2e-4})
    assert job.status == "validating_files"
    (warning,) = job.to_dict()["ecolink"]["warnings"]  # type: ignore[index]
    assert "learning_rate_multiplier" in warning
    usual = early.create(
        hyperparameters={"learning_rate_multiplier": 1.0}, extra_body={"max_cost": "2"}
    )
    ours: Any = usual.to_dict()["ecolink"]
    assert (ours["warnings"], ours["max_cost_micros"]) == ([], 2_000_000)


def test_a_job_is_approved_when_its_files_are_ready(early: Early, platform: Platform) -> None:
    jobs = early.api
    job = whole(
        early.create(
            validation_file=file_name(platform.dataset(early.person)),
            hyperparameters={"n_epochs": 2, "batch_size": 8},
            suffix="support",
            seed=7,
            metadata={"team": "a"},
        )
    )
    assert (job.status, job.model, job.seed) == ("validating_files", BASE_MODEL, 7)
    assert (job.error, job.finished_at, job.estimated_finish) == (None, None, None)
    assert (job.training_file, job.metadata) == (file_name(early.dataset_id), {"team": "a"})
    assert (job.hyperparameters.n_epochs, job.hyperparameters.batch_size) == (2, 8)
    assert whole(jobs.retrieve(job.id)) == job
    assert [whole(each) for each in jobs.list(metadata={"team": "a"})] == [job]
    (requested,) = early.messages(job, 1)
    assert list(jobs.checkpoints.list(job.id)) == []

    platform.validate(early.dataset_id, counted=False)
    platform.project()
    assert jobs.retrieve(job.id).status == "validating_files", "its tokens are not counted"
    assert platform.log.find(Job, job_of(job.id)) is None
    platform.count(early.dataset_id)
    queued = early.reached(job, "queued")
    for field in ("id", "created_at", "metadata", "hyperparameters"):
        assert getattr(queued, field) == getattr(job, field)
    order = platform.log.load(Job, job_of(job.id)).order
    assert (order.suffix, order.deploy) == ("support", True)
    assert [each.id for each in jobs.list()] == [job.id]
    assert early.messages(job, 3)[-1] == requested


def delete(early: Early, dataset_id: UUID) -> None:
    with because(early.platform.cause):
        early.platform.ecolink.delete_dataset(early.person.account_id, dataset_id, [])


def spend_and_validate(early: Early, dataset_id: UUID) -> None:
    early.platform.spend(early.person)
    early.platform.validate(dataset_id)


@pytest.mark.parametrize(
    ("field", "act", "code"),
    [
        ("training_file", lambda early, file: early.platform.reject(file), "file_rejected"),
        ("validation_file", lambda early, file: early.platform.reject(file), "file_rejected"),
        ("training_file", delete, "not_found"),
        (None, spend_and_validate, "insufficient_balance"),
    ],
)
def test_a_request_fails_with_the_error_of_a_creation(
    early: Early, field: str | None, act: Callable[[Early, UUID], None], code: str
) -> None:
    file = early.dataset_id
    if field == "validation_file":
        early.platform.validate(early.dataset_id)
        file = early.platform.dataset(early.person, ready=False)
    fields = {field: file_name(file)} if field else {}
    job = early.create(**fields)
    act(early, file)
    failed = early.reached(job, "failed")
    with pytest.raises(openai.APIStatusError) as refused:
        early.create(**fields)
    body: Any = refused.value.body
    assert failed.error is not None
    assert failed.finished_at is not None
    assert (failed.error.code, failed.error.param) == (code, field)
    assert (failed.error.code, failed.error.message) == (body["code"], body["message"])
    if code == "file_rejected":
        assert "line 3: no JSON" in failed.error.message
        stored = early.platform.log.recorder.select_notifications(start=1, limit=1000)
        assert not any(b"no JSON" in each.state for each in stored), "the log quotes no file"


def test_a_job_that_never_started_has_a_page_and_a_reason(
    early: Early, platform: Platform, client: TestClient
) -> None:
    job = early.create(suffix="support")
    page, detail = f"/fine-tune/{job.id}", f"/api/jobs/{job.id}"
    browser = signed_in(client, early.person)

    def refused() -> Any:
        answer = client.get(detail, headers=early.person.headers)
        assert answer.status_code == 404
        return answer.json()["error"]["message"]

    assert "waits until EcoLink has validated its files" in refused()
    assert "validating-files" in notes_in(client.get(page).text)
    assert client.get(f"{page}/waiting", headers=browser.htmx).status_code == 204
    platform.reject(early.dataset_id)
    early.reached(job, "failed")
    assert f"{job.id} failed before its approval" in refused()
    assert "line 3: no JSON" in refused()
    changed = client.get(f"{page}/waiting", headers=browser.htmx)
    assert changed.headers["hx-refresh"] == "true"
    shown = client.get(page).text
    assert 'data-failure="file_rejected"' in shown
    assert "line 3: no JSON" in shown
    assert page in client.get("/fine-tune?status=failed").text
    signed_in(client, platform.person())
    assert client.get(page).status_code == 404
    assert page not in client.get("/fine-tune").text


def test_a_waiting_job_is_cancelled_on_its_page(early: Early, client: TestClient) -> None:
    job = early.create()
    browser = signed_in(client, early.person)
    page = f"/fine-tune/{job.id}"
    listed = client.get("/fine-tune").text
    assert page in listed
    assert "every 3s" in listed
    assert f'hx-post="{page}/withdraw"' in client.get(page).text
    assert client.post(f"{page}/withdraw", headers=browser.htmx).headers["hx-refresh"] == "true"
    assert "cancelled-early" in notes_in(client.get(page).text)


def test_a_request_of_an_account_that_was_suspended_since_fails(
    early: Early, platform: Platform
) -> None:
    job = early.create()
    platform.suspend(early.person)
    platform.validate(early.dataset_id)
    error = early.reached(job, "failed").error
    assert error is not None
    assert error.code == "account_suspended"


def test_an_approval_names_the_key_that_requested_the_job(early: Early, platform: Platform) -> None:
    job = early.create()
    platform.validate(early.dataset_id)
    early.reached(job, "queued")
    approved = Entries(entries_of(platform.log)).last("JobApproved")
    assert approved.event.actor == f"key:{early.person.key_id}"


def test_a_cancelled_request_is_never_approved(early: Early, platform: Platform) -> None:
    jobs = early.api
    job, other = early.create(extra_headers=KEY), early.create()
    for command in (jobs.pause, jobs.resume):
        with pytest.raises(openai.ConflictError, match="validating_files"):
            command(job.id)
    cancelled = whole(jobs.cancel(job.id))
    assert (cancelled.status, cancelled.error) == ("cancelled", None)
    assert cancelled.finished_at is not None
    assert whole(jobs.cancel(job.id)) == cancelled
    platform.validate(early.dataset_id)
    early.reached(other, "queued")
    assert jobs.retrieve(job.id) == early.create(extra_headers=KEY) == cancelled
    assert platform.log.find(Job, job_of(job.id)) is None
    assert [(each.id, each.status) for each in jobs.list(limit=1)] == [
        (other.id, "queued"),
        (job.id, "cancelled"),
    ]
    assert whole(jobs.cancel(other.id)).status == "cancelled"


def test_a_key_names_one_job_before_and_after_the_approval(
    early: Early, platform: Platform
) -> None:
    with ThreadPoolExecutor(4) as threads:
        made = list(threads.map(lambda _: early.create(extra_headers=KEY), range(4)))
    assert len({each.id for each in made}) == len(list(early.api.list())) == 1

    def reuse_is_refused() -> bool:
        with pytest.raises(openai.ConflictError) as refused:
            early.create(seed=1, extra_headers=KEY)
        return refused.value.code == "idempotency_key_reused"

    assert reuse_is_refused()
    platform.validate(early.dataset_id)
    early.reached(made[0], "queued")
    assert reuse_is_refused()
    again = early.create(extra_headers=KEY)
    assert (again.id, again.status) == (made[0].id, "queued")
    assert platform.topics().count("JobApproved") == 1


def test_an_impossible_job_is_refused_at_once(early: Early, platform: Platform) -> None:
    for wrong in (
        {"model": "gpt-none"},
        {"training_file": f"file-{UUID(int=0).hex}"},
        {"validation_file": f"file-{UUID(int=0).hex}"},
        {"extra_body": {"gpu_type": "none"}},
    ):
        with pytest.raises(openai.APIStatusError) as refused:
            early.create(**wrong)
        assert refused.value.status_code in (400, 404)
    assert "JobRequested" not in platform.topics()


def test_a_request_survives_a_gateway_restart(
    settings: Settings, platform: Platform, projecting: None
) -> None:
    def client_on(http: TestClient, key: str) -> OpenAI:
        url = "http://testserver/v1"
        return OpenAI(api_key=key, base_url=url, http_client=http, max_retries=0)

    with TestClient(application(settings)) as http:
        early = Early.of(platform, lambda person: client_on(http, person.key), ready=False)
        job = early.create()
    platform.validate(early.dataset_id)
    with TestClient(application(settings)) as http:
        early.client = client_on(http, early.person.key)
        early.reached(job, "queued")


def test_concurrent_gateways_approve_a_job_once(
    early: Early, platform: Platform, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "POLL_SECONDS", 3600.0)
    job = early.create()
    platform.validate(early.dataset_id)
    backend = client.app.state.backend  # type: ignore[attr-defined]
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: requests.settle(backend, job_of(job.id)), range(4)))
    topics = platform.topics()
    assert (topics.count("JobApproved"), topics.count("JobRequestApproved")) == (1, 1)
