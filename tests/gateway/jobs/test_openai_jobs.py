"""Fine-tuning jobs under /v1, through OpenAI's client."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest

from domain.core.aggregate import because
from domain.jobs.job import Job
from gateway.http.openai_vocabulary import file_name, job_of
from tests.builders.examples import revision
from tests.builders.platform import BASE_MODEL, Platform
from tests.gateway.jobs.owners import ClientOf, OpenAIJobs
from tests.openai_objects import whole

KEY = {"idempotency-key": "once"}


@pytest.fixture
def jobs(client_of: ClientOf, platform: Platform) -> OpenAIJobs:
    return OpenAIJobs.of(platform, client_of)


def test_a_job_is_created_and_retrieved(jobs: OpenAIJobs, platform: Platform) -> None:
    job = whole(
        jobs.create(
            validation_file=file_name(platform.dataset(jobs.person)),
            method={
                "type": "supervised",
                "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": 8}},
            },
            suffix="support",
            seed=7,
            metadata={"team": "a"},
            extra_body={"lora_r": 8, "gpu_type": "cpu", "region": "local", "max_cost": "1.25"},
        )
    )
    assert (job.status, job.model, job.seed) == ("queued", BASE_MODEL, 7)
    assert (job.fine_tuned_model, job.finished_at, job.error) == (None, None, None)
    assert (job.result_files, job.trained_tokens) == ([], None)
    assert job.estimated_finish is not None
    assert job.estimated_finish > job.created_at
    assert job.metadata == {"team": "a"}
    numbers = job.hyperparameters
    assert (numbers.n_epochs, numbers.batch_size, numbers.learning_rate_multiplier) == (2, 8, 1.0)
    sent: Any = job.to_dict()
    assert sent["method"]["supervised"]["hyperparameters"]["batch_size"] == 8
    assert sent["ecolink"]["hyperparameters"]["lora_r"] == 8
    assert sent["ecolink"]["max_cost_micros"] == 1_250_000

    read = whole(jobs.api.retrieve(job.id))
    # Nothing trains yet, so the expected end moves with the time.
    assert read.estimated_finish is not None
    assert read.estimated_finish >= job.estimated_finish
    assert read == job.model_copy(update={"estimated_finish": read.estimated_finish})
    order = platform.log.load(Job, job_of(job.id)).order
    assert (order.suffix, order.deploy) == ("support", True)


def test_jobs_are_filtered_by_metadata_and_paged(
    jobs: OpenAIJobs, client_of: ClientOf, platform: Platform
) -> None:
    noted = [{"team": "a"}, {"team": "b", "run": "1"}, {"team": "b"}, None]
    made = [jobs.create(metadata=each).id for each in noted]
    listed = jobs.api.list
    assert [whole(each).id for each in listed(limit=1)] == made[::-1]
    for limit in (1, 20):
        assert [each.id for each in listed(metadata={"team": "b"}, limit=limit)] == made[2:0:-1]
    assert [each.id for each in listed(metadata={"team": "b", "run": "1"})] == [made[1]]
    assert list(listed(metadata={"team": "c"})) == []
    assert [each.id for each in listed(extra_query={"metadata": "null"})] == [made[3]]
    assert list(client_of(platform.person()).fine_tuning.jobs.list(metadata={"team": "b"})) == []


def test_commands_return_the_job_or_a_conflict_without_a_retry(jobs: OpenAIJobs) -> None:
    job = jobs.create()
    assert whole(jobs.api.pause(job.id)).status == "paused"
    assert whole(jobs.api.resume(job.id)).status == "queued"
    cancelled = whole(jobs.api.cancel(job.id))
    assert (cancelled.status, cancelled.estimated_finish) == ("cancelled", None)
    assert cancelled.finished_at is not None
    for command in (jobs.api.pause, jobs.api.resume):
        with pytest.raises(openai.ConflictError) as refused:
            command(job.id)
        assert refused.value.response.headers["x-should-retry"] == "false"
        assert refused.value.code == "wrong_state"


def test_a_resume_changes_only_the_number_of_gpus(jobs: OpenAIJobs, platform: Platform) -> None:
    platform.open_pool("a100-40", 4)
    job = jobs.create(extra_body={"gpu_type": "a100-40"})
    jobs.api.pause(job.id)
    for wrong in ({"gpu_type": "h100"}, {"gpu_count": 0}, {"gpu_count": 2, "epochs": 3}):
        with pytest.raises(openai.BadRequestError) as refused:
            jobs.api.resume(job.id, extra_body=wrong)
        assert refused.value.param in wrong
    assert jobs.api.retrieve(job.id).status == "paused"
    resumed: Any = jobs.api.resume(job.id, extra_body={"gpu_count": 2}).to_dict()
    assert resumed["ecolink"]["gpu_count"] == 2


def test_a_job_resumes_although_its_base_was_imported_again(
    jobs: OpenAIJobs, platform: Platform
) -> None:
    """The tokens are not counted under the new import, which may even be impossible."""
    job = jobs.create()
    jobs.api.pause(job.id)
    with because(platform.cause):
        platform.ecolink.import_base_model(job.model, revision(manifest_sha256="33"))
    assert whole(jobs.api.resume(job.id)).status == "queued"


@pytest.mark.full
@pytest.mark.parametrize("ready", [True, False])
def test_another_accounts_job_is_not_found(
    client_of: ClientOf, platform: Platform, ready: bool
) -> None:
    jobs = OpenAIJobs.of(platform, client_of, ready=ready)
    job = jobs.create()
    theirs = client_of(platform.person(dollars=10)).fine_tuning.jobs
    for ask in (
        *(theirs.retrieve, theirs.cancel, theirs.pause, theirs.resume),
        *(theirs.list_events, theirs.checkpoints.list),
    ):
        for name in (job.id, "ftjob-none", job_of(job.id).hex):
            with pytest.raises(openai.NotFoundError):
                ask(name)
    with pytest.raises(openai.NotFoundError) as refused:
        theirs.create(training_file=file_name(jobs.dataset_id), model=BASE_MODEL)
    assert refused.value.param == "training_file"
    assert list(theirs.list()) == []


def test_a_low_balance_is_an_insufficient_quota(jobs: OpenAIJobs, platform: Platform) -> None:
    platform.spend(jobs.person)
    with pytest.raises(openai.APIStatusError) as refused:
        jobs.create()
    body: Any = refused.value.body
    assert (refused.value.status_code, body["type"]) == (402, "insufficient_quota")
    assert body["figures"]["missing_micros"] == body["figures"]["needed_micros"]


def test_a_repeated_key_returns_the_same_job(jobs: OpenAIJobs, platform: Platform) -> None:
    with ThreadPoolExecutor(4) as threads:
        made = set(threads.map(lambda _: jobs.create(extra_headers=KEY).id, range(4)))
    platform.open_pool("a100-40", 4)  # also if it would fit better elsewhere
    assert made == {jobs.create(extra_headers=KEY).id}
    with pytest.raises(openai.ConflictError) as refused:
        jobs.create(seed=1, extra_headers=KEY)
    assert refused.value.code == "idempotency_key_reused"


def test_only_a_retry_repeats_an_identical_body(jobs: OpenAIJobs) -> None:
    first, second = jobs.create().id, jobs.create().id
    assert first != second
    again = {"x-stainless-retry-count": "1"}
    assert jobs.create(extra_headers=again).id == second
    assert jobs.create(seed=3, extra_headers=again).id not in (first, second)


def test_a_rejected_file_is_refused_with_its_errors(jobs: OpenAIJobs, platform: Platform) -> None:
    rejected = platform.dataset(jobs.person, ready=False)
    platform.reject(rejected)
    with pytest.raises(openai.BadRequestError) as refused:
        jobs.create(training_file=file_name(rejected))
    assert (refused.value.param, refused.value.code) == ("training_file", "file_rejected")
    assert "line 3: no JSON" in refused.value.message


def test_an_error_names_the_sent_parameter(jobs: OpenAIJobs, subtests: pytest.Subtests) -> None:
    for param, fields in (
        ("model", {"model": "gpt-none"}),
        ("max_sequence_length", {"extra_body": {"max_sequence_length": 40}}),
        ("lora_rank", {"extra_body": {"lora_rank": 8}}),
        ("gpu_type", {"extra_body": {"gpu_type": "none"}}),
        ("region", {"extra_body": {"region": "nowhere"}}),
        ("gpu_count", {"extra_body": {"gpu_count": 9}}),
        ("max_cost", {"extra_body": {"max_cost": "cheap"}}),
        ("max_cost", {"extra_body": {"max_cost": "0.000001"}}),
    ):
        with subtests.test(str(fields)):
            with pytest.raises(openai.BadRequestError) as refused:
                jobs.create(**fields)
            assert refused.value.param == param
            assert not jobs.api.list().data
