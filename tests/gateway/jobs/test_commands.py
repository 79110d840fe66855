"""Pause, resume, cancel and promote as an account holder."""

from __future__ import annotations

import pytest

from domain.core.aggregate import because
from domain.jobs.job import Job
from domain.training.phases import Phase
from gateway.backend import Backend
from gateway.cli.job_tables import paused
from gateway.jobs.schemas import JobDetail
from tests.builders.examples import saved_checkpoint
from tests.builders.platform import BASE_MODEL, Platform
from tests.gateway.jobs.owners import Owner


def test_a_queued_job_pauses_at_once_and_resumes_once(owner: Owner) -> None:
    job = [owner.give("pause").json() for _ in range(2)][1]
    assert (job["status"], job["pause_reason"]) == ("paused", "owner")
    assert job["resume"]["allowed"]
    assert job["resume"]["needed"]["micros"] > 0
    resumed = [owner.give("resume") for _ in range(2)][1]
    assert (resumed.status_code, resumed.json()["status"]) == (200, "training")
    assert owner.topics() == ["JobApproved", "JobPaused", "JobResumed"]


def test_a_job_resumes_on_the_requested_number_of_gpus(owner: Owner) -> None:
    rate = owner.read()["rate_per_hour"]["micros"]
    owner.give("pause")
    for count in (0, 3):  # the region has two GPUs
        refused = owner.give("resume", gpu_count=count)
        assert refused.status_code == 422
        assert "gpu_count" in refused.text
    resumed = owner.give("resume", gpu_count=2).json()
    assert (resumed["gpu_count"], resumed["rate_per_hour"]["micros"]) == (2, 2 * rate)
    assert (owner.job.gpu_count, owner.job.plan.gpu_count) == (2, 1)


def test_a_resume_is_estimated_from_the_measured_steps(owner: Owner, platform: Platform) -> None:
    owner.train(checkpoint=None)
    owner.act(lambda job: job.save_checkpoint(saved_checkpoint(1, 10, 2.0, 1003)), Job.pause)
    owner.end(phase_seconds={Phase.MODEL_LOAD: 3.0, Phase.TRAINING: 1000.0})
    backend: Backend = owner.client.app.state.backend  # type: ignore[attr-defined]
    rest = backend.quoting.rest_of(owner.job).estimate
    assert rest.typical_seconds(Phase.TRAINING) == pytest.approx(100 * 20)
    assert "10 steps" in rest.basis
    assert "steps" not in backend.quoting.rest_of(owner.job, gpu_count=2).estimate.basis
    platform.project()
    assert owner.read()["resume"]["basis"] == rest.basis
    assert "10 steps" in str(paused(JobDetail.model_validate(owner.read())))


def test_an_out_of_memory_failure_shows_the_tried_micro_batches(
    owner: Owner, platform: Platform
) -> None:
    for segment in (1, 2):
        owner.train(segment)
        owner.run_out_of_memory(segment)
        platform.project()
        shown = owner.read()
        assert shown["failure"]["shortage"]["rows"] == 4
        assert shown["failure"]["retried"] == (segment == 1)
    assert (shown["status"], shown["halved_micro_batch_size"]) == ("failed", 2)
    assert "MicroBatchHalved" in owner.topics()


def test_a_running_job_pauses_when_its_trainer_has_saved(owner: Owner, platform: Platform) -> None:
    owner.train()
    job = owner.give("pause").json()
    assert (job["status"], job["phase"]) == ("training", "pausing")
    assert job["remaining_seconds"] is None  # it will not be registered
    assert owner.give("resume").status_code == 409
    owner.end()
    platform.project()
    shown = owner.read()
    assert (shown["status"], shown["step"]) == ("paused", 10)


def test_a_resume_is_refused_with_the_missing_amount(owner: Owner, platform: Platform) -> None:
    owner.give("pause")
    platform.spend(owner.person)
    refused = owner.give("resume")
    error = refused.json()["error"]
    assert (refused.status_code, error["code"]) == (402, "insufficient_balance")
    missing = error["figures"]["missing_micros"]
    gate = owner.read()["resume"]
    assert (gate["allowed"], gate["missing"]["micros"]) == (False, missing)
    platform.credit(owner.person, missing)
    assert owner.give("resume").status_code == 200


def test_a_resume_binds_the_cost_that_its_owner_saw(owner: Owner) -> None:
    owner.give("pause")
    needed = owner.read()["resume"]["needed"]["micros"]
    refused = owner.give("resume", wait=True, needed_micros=needed - 1)
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "wrong_state")
    assert owner.read()["status"] == "paused"
    assert owner.give("resume", wait=True, needed_micros=needed).json()["status"] == "training"


def test_a_resume_is_queued_in_a_full_region_if_requested(owner: Owner, platform: Platform) -> None:
    owner.give("pause")
    platform.occupy(2)
    refused = owner.give("resume")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "no_capacity")
    assert owner.give("resume", wait=True).json()["phase"] == "waiting for a GPU"


def test_a_cancelled_job_keeps_its_checkpoint_until_it_is_promoted(owner: Owner) -> None:
    owner.train()
    assert owner.give("cancel").json()["phase"] == "cancelling"
    owner.end()
    job = owner.give("cancel").json()
    assert (job["status"], job["expired"], job["promoted"]) == ("cancelled", False, False)
    assert job["expires_at"] is not None
    assert "step 10 " in job["kept"]
    assert owner.give("pause").status_code == 409
    promoted = [owner.give("promote").json() for _ in range(2)][1]
    assert (promoted["status"], promoted["promoted"]) == ("cancelled", True)
    models = owner.client.get("/api/models", headers=owner.person.headers).json()["models"]
    assert [each["model"] for each in models] == [promoted["model"]]


def test_a_job_that_is_cancelled_before_any_checkpoint_keeps_nothing(owner: Owner) -> None:
    job = owner.give("cancel").json()
    assert (job["status"], job["expires_at"], job["checkpoint_step"]) == ("cancelled", None, None)
    assert job["kept"]


@pytest.mark.parametrize("command", ["resume", "promote"])
def test_a_command_in_the_wrong_state_is_refused(owner: Owner, command: str) -> None:
    refused = owner.give(command)
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "wrong_state")


def test_a_command_on_another_accounts_job_is_refused(
    owner: Owner, platform: Platform, subtests: pytest.Subtests
) -> None:
    for command in ("pause", "resume", "cancel", "promote"):
        with subtests.test(command):
            assert owner.give(command, platform.person(dollars=10)).status_code == 404


def test_a_job_resumes_on_an_undeployed_base_model(owner: Owner, platform: Platform) -> None:
    owner.give("pause")
    with because(platform.cause):
        platform.deploying.undeploy_base(BASE_MODEL, lambda: 0)
    assert owner.give("resume").status_code == 200
