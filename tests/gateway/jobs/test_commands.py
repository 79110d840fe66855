"""Pause, resume, cancel and promote as an account holder."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from fastapi.testclient import TestClient

from domain.core.aggregate import because
from domain.jobs.failures import FailureClass, MemoryShortage
from domain.jobs.job import Job, SegmentEnd
from tests.builders.examples import ending, saved_checkpoint
from tests.builders.platform import BASE_MODEL, Person, Platform
from tests.gateway.jobs.test_api import ready, uuid_of


class Owner:
    """A person with one approved job."""

    def __init__(
        self, client: TestClient, platform: Platform, dollars: int = 10, *, deploy: bool = False
    ) -> None:
        self.client, self.platform = client, platform
        self.person, self.form = ready(platform, dollars)
        order = self.form | {"deploy": deploy}
        approved = client.post("/api/jobs", json=order, headers=self.person.headers)
        self.job_id: UUID = uuid_of(approved.json())
        self.path = f"/api/jobs/{approved.json()['id']}"

    def give(self, command: str, person: Person | None = None, **body: Any) -> Any:
        headers = (person or self.person).headers
        return self.client.post(f"{self.path}/{command}", json=body or None, headers=headers)

    def topics(self) -> list[str]:
        timeline = self.client.get(f"{self.path}/timeline", headers=self.person.headers)
        return [event["topic"] for event in timeline.json()["data"]]

    def train(self, segment: int = 1, *, checkpoint: int | None = 10) -> None:
        """Train a segment and save a checkpoint."""
        with because(self.platform.cause):
            job = self.platform.log.load(Job, self.job_id)
            job.allocate_segment(segment)
            job.start_pod(segment, "pod", datetime.now(UTC))
            job.start_training(segment, 0, 30, 9, 1)
            if checkpoint is not None:
                job.save_checkpoint(
                    saved_checkpoint(segment, checkpoint, 2.0, 5, "checkpoints/1", "c" * 64, 9)
                )
            self.platform.log.commit(job)

    def end(self, segment: int = 1, reason: SegmentEnd = SegmentEnd.STOPPED) -> None:
        with because(self.platform.cause):
            job = self.platform.log.load(Job, self.job_id)
            job.end_segment(segment, ending(reason, 10))
            self.platform.log.commit(job)

    def run_out_of_memory(self, segment: int) -> None:
        shortage = MemoryShortage(
            rows=4, tokens=90, micro_batch_size=4, gradient_accumulation=4, peak_bytes=10**9
        )
        with because(self.platform.cause):
            job = self.platform.log.load(Job, self.job_id)
            job.end_segment(
                segment,
                ending(
                    SegmentEnd.CRASHED,
                    10,
                    failure=FailureClass.OUT_OF_MEMORY,
                    shortage=shortage,
                ),
            )
            self.platform.log.commit(job)


def test_a_waiting_job_pauses_at_once_and_resumes_once(
    client: TestClient, platform: Platform
) -> None:
    owner = Owner(client, platform)
    paused = [owner.give("pause") for _ in range(2)]
    assert [answer.status_code for answer in paused] == [200, 200]
    job = paused[1].json()
    assert (job["status"], job["pause_reason"]) == ("paused", "owner")
    assert job["resume"]["allowed"]
    assert job["resume"]["needed"]["micros"] > 0
    resumed = [owner.give("resume") for _ in range(2)]
    assert [answer.status_code for answer in resumed] == [200, 200]
    assert resumed[1].json()["status"] == "training"
    assert owner.topics() == ["JobApproved", "JobPaused", "JobResumed"]


def test_a_job_resumes_on_as_many_gpus_as_are_asked_for(
    client: TestClient, platform: Platform
) -> None:
    owner = Owner(client, platform)
    rate = client.get(owner.path, headers=owner.person.headers).json()["rate_per_hour"]["micros"]
    owner.give("pause")
    for count in (0, 3):  # the region has two GPUs
        refused = owner.give("resume", gpu_count=count)
        assert refused.status_code == 422
        assert "gpu_count" in refused.text
    resumed = owner.give("resume", gpu_count=2).json()
    assert (resumed["gpu_count"], resumed["rate_per_hour"]["micros"]) == (2, 2 * rate)
    job = platform.log.load(Job, owner.job_id)
    assert (job.gpu_count, job.plan.gpu_count) == (2, 1)


def test_an_out_of_memory_failure_shows_the_tried_micro_batches(
    client: TestClient, platform: Platform
) -> None:
    owner = Owner(client, platform)
    for segment in (1, 2):
        owner.train(segment)
        owner.run_out_of_memory(segment)
        platform.project()
        shown = client.get(owner.path, headers=owner.person.headers).json()
        assert shown["failure"]["shortage"]["rows"] == 4
        assert shown["failure"]["retried"] == (segment == 1)
    assert shown["status"] == "failed"
    assert shown["halved_micro_batch_size"] == 2
    assert "MicroBatchHalved" in owner.topics()


def test_a_running_job_pauses_when_its_trainer_has_saved(
    client: TestClient, platform: Platform
) -> None:
    owner = Owner(client, platform)
    owner.train()
    job = owner.give("pause").json()
    assert (job["status"], job["phase"]) == ("training", "pausing")
    assert job["remaining_seconds"] is None  # it will not be registered
    refused = owner.give("resume")
    assert refused.status_code == 409
    assert "about to pause" in refused.json()["error"]["message"]
    owner.end()
    platform.project()
    shown = client.get(owner.path, headers=owner.person.headers).json()
    assert (shown["status"], shown["step"]) == ("paused", 10)


def test_resume_is_refused_with_the_missing_amount(client: TestClient, platform: Platform) -> None:
    owner = Owner(client, platform)
    owner.give("pause")
    platform.spend(owner.person)
    refused = owner.give("resume")
    error = refused.json()["error"]
    assert (refused.status_code, error["code"]) == (402, "insufficient_balance")
    missing = error["figures"]["missing_micros"]
    shown = client.get(owner.path, headers=owner.person.headers).json()
    assert not shown["resume"]["allowed"]
    assert shown["resume"]["missing"]["micros"] == missing
    platform.credit(owner.person, missing)
    assert owner.give("resume").status_code == 200


def test_resume_waits_its_turn_in_a_full_region(client: TestClient, platform: Platform) -> None:
    owner = Owner(client, platform)
    owner.give("pause")
    platform.occupy(2)
    refused = owner.give("resume")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "no_capacity")
    assert owner.give("resume", wait=True).json()["phase"] == "waiting for a GPU"


def test_a_job_that_was_never_paused_is_not_resumed(client: TestClient, platform: Platform) -> None:
    refused = Owner(client, platform).give("resume")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "wrong_state")


def test_a_cancelled_job_keeps_its_checkpoint_until_it_is_promoted(
    client: TestClient, platform: Platform
) -> None:
    owner = Owner(client, platform)
    owner.train()
    assert owner.give("cancel").json()["phase"] == "cancelling"
    owner.end()
    job = owner.give("cancel").json()
    assert (job["status"], job["expired"], job["promoted"]) == ("cancelled", False, False)
    assert job["expires_at"] is not None
    assert "step 10 is kept until" in job["kept"]
    assert owner.give("pause").status_code == 409
    promoted = [owner.give("promote").json() for _ in range(2)][1]
    assert promoted["status"] == "cancelled"
    assert promoted["promoted"]
    models = client.get("/api/models", headers=owner.person.headers).json()["models"]
    assert [each["model"] for each in models] == [promoted["model"]]


def test_cancelled_before_any_checkpoint_keeps_nothing(
    client: TestClient, platform: Platform
) -> None:
    owner = Owner(client, platform)
    job = owner.give("cancel").json()
    assert (job["status"], job["expires_at"], job["checkpoint_step"]) == ("cancelled", None, None)
    assert job["kept"]
    refused = owner.give("promote")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "wrong_state")


def test_commands_on_another_accounts_job_are_refused(
    client: TestClient, platform: Platform
) -> None:
    owner, stranger = Owner(client, platform), platform.person(dollars=10)
    for command in ("pause", "resume", "cancel", "promote"):
        assert owner.give(command, stranger).status_code == 404


def test_a_job_resumes_on_a_base_that_is_deployed_no_more(
    client: TestClient, platform: Platform
) -> None:
    owner = Owner(client, platform)
    owner.give("pause")
    with because(platform.cause):
        platform.deploying.undeploy_base(BASE_MODEL, lambda: 0)
    assert owner.give("resume").status_code == 200
