"""Fine-tuning jobs under /v1, through the real client."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import openai
import pytest
from openai import OpenAI

from domain.core.aggregate import because
from domain.datasets.dataset import Dataset
from domain.jobs.job import Job
from gateway.http.openai_vocabulary import file_name, job_of
from infrastructure.artifacts import Artifacts
from tests.builders.platform import BASE_MODEL, Person, Platform
from tests.gateway.conftest import ClientOf
from tests.openai_objects import whole


def ready(platform: Platform, dollars: int = 10) -> tuple[Person, dict[str, Any]]:
    """A person with a file, and the minimal request for a job on it."""
    person = platform.person(dollars=dollars)
    platform.base_model()
    return person, {"training_file": file_name(platform.dataset(person)), "model": BASE_MODEL}


def test_a_job_is_created_listed_and_retrieved(client_of: ClientOf, platform: Platform) -> None:
    person, form = ready(platform)
    client = client_of(person)
    job = whole(
        client.fine_tuning.jobs.create(
            **form,
            validation_file=file_name(platform.dataset(person)),
            method={
                "type": "supervised",
                "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": 8}},
            },
            suffix="support",
            seed=7,
            metadata={"team": "a"},
            extra_body={"lora_r": 8, "gpu_type": "cpu", "region": "local"},
        )
    )
    assert (job.status, job.model, job.seed) == ("queued", BASE_MODEL, 7)
    assert (job.fine_tuned_model, job.finished_at, job.error) == (None, None, None)
    assert (job.result_files, job.trained_tokens) == ([], None)
    assert job.estimated_finish is not None
    assert job.estimated_finish > job.created_at
    assert job.metadata == {"team": "a"}
    assert job.method is not None
    assert job.method.supervised is not None
    assert job.method.supervised.hyperparameters is not None
    numbers = job.hyperparameters
    assert (numbers.n_epochs, numbers.batch_size, numbers.learning_rate_multiplier) == (2, 8, 1.0)
    assert job.method.supervised.hyperparameters.batch_size == 8
    assert job.to_dict()["ecolink"]["hyperparameters"]["lora_r"] == 8  # type: ignore[index]

    read = whole(client.fine_tuning.jobs.retrieve(job.id))
    # Nothing trains yet, so the expected end moves with the time.
    assert read.estimated_finish is not None
    assert read.estimated_finish >= job.estimated_finish
    assert read == job.model_copy(update={"estimated_finish": read.estimated_finish})
    stored = platform.log.load(Job, job_of(job.id))
    assert (stored.order.suffix, stored.order.deploy) == ("support", True)
    assert stored.model_name.startswith(f"ft:{BASE_MODEL}:support:")


def test_jobs_are_filtered_by_metadata_and_paged(client_of: ClientOf, platform: Platform) -> None:
    person, form = ready(platform)
    jobs = client_of(person).fine_tuning.jobs
    noted = [{"team": "a"}, {"team": "b", "run": "1"}, {"team": "b"}, None]
    made = [jobs.create(**form, metadata=each).id for each in noted]
    assert [whole(each).id for each in jobs.list(limit=1)] == made[::-1]
    assert [each.id for each in jobs.list(metadata={"team": "b"})] == [made[2], made[1]]
    assert [each.id for each in jobs.list(metadata={"team": "b", "run": "1"})] == [made[1]]
    assert [each.id for each in jobs.list(metadata={"team": "b"}, limit=1)] == [made[2], made[1]]
    assert list(jobs.list(metadata={"team": "c"})) == []
    assert [each.id for each in jobs.list(extra_query={"metadata": "null"})] == [made[3]]
    assert list(client_of(platform.person()).fine_tuning.jobs.list(metadata={"team": "b"})) == []


def test_commands_are_given_and_refused(client_of: ClientOf, platform: Platform) -> None:
    person, form = ready(platform)
    jobs = client_of(person).fine_tuning.jobs
    job = jobs.create(**form)
    assert whole(jobs.pause(job.id)).status == "paused"
    assert whole(jobs.resume(job.id)).status == "queued"
    cancelled = whole(jobs.cancel(job.id))
    assert cancelled.status == "cancelled"
    assert cancelled.finished_at is not None
    assert cancelled.estimated_finish is None
    for command in (jobs.pause, jobs.resume):
        with pytest.raises(openai.ConflictError) as refused:
            command(job.id)
        assert refused.value.response.headers["x-should-retry"] == "false"
        assert refused.value.code == "wrong_state"


def test_a_resume_takes_another_number_of_gpus_and_nothing_else(
    client_of: ClientOf, platform: Platform
) -> None:
    platform.open_pool("a100-40", 4)
    person, form = ready(platform)
    jobs = client_of(person).fine_tuning.jobs
    job = jobs.create(**form, extra_body={"gpu_type": "a100-40"})
    jobs.pause(job.id)
    for wrong in ({"gpu_type": "h100"}, {"gpu_count": 0}, {"gpu_count": 2, "epochs": 3}):
        with pytest.raises(openai.BadRequestError) as refused:
            jobs.resume(job.id, extra_body=wrong)
        assert refused.value.param in wrong
    assert jobs.retrieve(job.id).status == "paused"
    resumed = jobs.resume(job.id, extra_body={"gpu_count": 2})
    assert resumed.to_dict()["ecolink"]["gpu_count"] == 2  # type: ignore[index]


def test_another_accounts_job_is_not_found(client_of: ClientOf, platform: Platform) -> None:
    person, form = ready(platform)
    job = client_of(person).fine_tuning.jobs.create(**form)
    theirs = client_of(platform.person(dollars=10)).fine_tuning.jobs
    for ask in (
        *(theirs.retrieve, theirs.cancel, theirs.pause, theirs.resume),
        *(theirs.list_events, theirs.checkpoints.list),
    ):
        for name in (job.id, "ftjob-none", job_of(job.id).hex):
            with pytest.raises(openai.NotFoundError):
                ask(name)
    with pytest.raises(openai.NotFoundError) as refused:
        theirs.create(**form)
    assert refused.value.param == "training_file"
    assert list(theirs.list()) == []


def test_a_low_balance_is_402_with_the_missing_amount(
    client_of: ClientOf, platform: Platform
) -> None:
    person, form = ready(platform, dollars=0)
    platform.credit(person, 1)
    with pytest.raises(openai.APIStatusError) as refused:
        client_of(person).fine_tuning.jobs.create(**form)
    assert refused.value.status_code == 402
    body: Any = refused.value.body
    assert body["figures"]["missing_micros"] == body["figures"]["needed_micros"] - 1
    assert body["type"] == "insufficient_quota"


def test_the_same_key_makes_the_same_job(client_of: ClientOf, platform: Platform) -> None:
    person, form = ready(platform)
    jobs = client_of(person).fine_tuning.jobs
    key = {"idempotency-key": "once"}

    def create(_: int) -> str:
        return jobs.create(**form, extra_headers=key).id

    with ThreadPoolExecutor(4) as threads:
        assert len(set(threads.map(create, range(4)))) == 1
    platform.open_pool("a100-40", 4)
    assert jobs.create(**form, extra_headers=key).id == create(0), "also where it would fit better"
    with pytest.raises(openai.ConflictError) as refused:
        jobs.create(**form, seed=1, extra_headers=key)
    assert refused.value.code == "idempotency_key_reused"


def test_only_a_retry_repeats_an_identical_body(client_of: ClientOf, platform: Platform) -> None:
    person, form = ready(platform)
    jobs = client_of(person).fine_tuning.jobs
    first, second = jobs.create(**form).id, jobs.create(**form).id
    assert first != second
    again = {"x-stainless-retry-count": "1"}
    assert jobs.create(**form, extra_headers=again).id == second
    assert jobs.create(**form, seed=3, extra_headers=again).id not in (first, second)


def test_a_rejected_file_is_400_with_its_errors(client_of: ClientOf, platform: Platform) -> None:
    person, _ = ready(platform)
    rejected = platform.dataset(person, ready=False)
    reject(platform, rejected)
    with pytest.raises(openai.BadRequestError) as refused:
        client_of(person).fine_tuning.jobs.create(
            model=BASE_MODEL, training_file=file_name(rejected)
        )
    assert refused.value.param == "training_file"
    assert refused.value.code == "file_rejected"
    assert "line 3: it is no JSON" in refused.value.message


def reject(platform: Platform, dataset_id: UUID) -> None:
    Artifacts(platform.settings.artifacts).put(
        "datasets/z/report.json",
        b'{"status": "rejected", "examples": 0, "duplicates": 0, "lines": 3, "bytes": 9, '
        b'"warnings": [], "errors": [{"line": 3, "code": "invalid_json", "message": '
        b'"it is no JSON"}], "error_count": 1}',
    )
    with because(platform.cause):
        dataset = platform.log.load(Dataset, dataset_id)
        dataset.reject(1, "datasets/z/report.json")
        platform.log.commit(dataset)
    platform.project()


def place_of(client: OpenAI, form: dict[str, Any], **chosen: Any) -> tuple[str, int]:
    job: Any = client.fine_tuning.jobs.create(**form, extra_body=chosen).to_dict()
    return job["ecolink"]["gpu_type"], job["ecolink"]["gpu_count"]


def test_omitted_gpus_default_to_the_cheapest_free_ones(
    client_of: ClientOf, platform: Platform
) -> None:
    person, form = ready(platform, dollars=1000)
    client = client_of(person)
    assert place_of(client, form) == ("cpu", 1)
    platform.open_pool("h100", 4)
    assert place_of(client, form, gpu_count=3) == ("h100", 3)
    assert place_of(client, form, gpu_type="cpu") == ("cpu", 1)
    free = place_of(client, form)
    platform.occupy(2)
    platform.project()
    assert place_of(client, form) == ("h100", 1), f"the cpu is taken; free it was {free}"
    for wrong in ({"gpu_type": "none"}, {"region": "nowhere"}, {"gpu_count": 9}):
        with pytest.raises(openai.BadRequestError) as refused:
            place_of(client, form, **wrong)
        assert {refused.value.param} == wrong.keys()


def test_an_unknown_model_is_named(client_of: ClientOf, platform: Platform) -> None:
    person, form = ready(platform)
    with pytest.raises(openai.BadRequestError) as refused:
        client_of(person).fine_tuning.jobs.create(
            model="gpt-none", training_file=form["training_file"]
        )
    assert refused.value.param == "model"


def test_a_length_that_leaves_nothing_to_learn_is_refused(
    client_of: ClientOf, platform: Platform
) -> None:
    person, form = ready(platform)
    client = client_of(person)
    with pytest.raises(openai.BadRequestError) as refused:
        client.fine_tuning.jobs.create(**form, extra_body={"max_sequence_length": 40})
    assert refused.value.param == "max_sequence_length"
    assert not client.fine_tuning.jobs.list().data


def test_an_unknown_field_is_named(client_of: ClientOf, platform: Platform) -> None:
    person, form = ready(platform)
    with pytest.raises(openai.BadRequestError) as refused:
        client_of(person).fine_tuning.jobs.create(**form, extra_body={"lora_rank": 8})
    assert refused.value.param == "lora_rank"
