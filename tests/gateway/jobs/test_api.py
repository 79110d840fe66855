"""Approval and retrieval of jobs."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import pytest
from fastapi.testclient import TestClient

from domain.jobs.job import Job
from gateway.http import read_your_writes as freshness
from tests.builders.platform import BASE_MODEL, Person, Platform

TARGET_MODULES = "hyperparameters.target_modules"


def ready(platform: Platform, dollars: int = 10) -> tuple[Person, dict[str, Any]]:
    """A person with a ready dataset, and the request body of a job on it."""
    person = platform.person(dollars=dollars)
    platform.base_model()
    return person, {"dataset": str(platform.dataset(person)), "base_model": BASE_MODEL}


def uuid_of(job: dict[str, Any]) -> UUID:
    return UUID(job["id"].removeprefix("ftjob-"))


def test_a_job_is_visible_as_soon_as_it_is_approved(client: TestClient, platform: Platform) -> None:
    person, body = ready(platform)
    approved = client.post("/api/jobs", json=body, headers=person.headers)
    assert approved.status_code == 201
    job = approved.json()
    assert job["status"] == "training"
    assert job["rate_per_hour"] == {"micros": 600_000, "text": "$0.60"}

    for name in (job["id"], str(uuid_of(job))):
        shown = client.get(f"/api/jobs/{name}", headers=person.headers).json()
        assert shown["id"] == job["id"]
        assert shown["phase"] == "waiting for a GPU"
        assert shown["hyperparameters"]["epochs"] == 3
        assert shown["balance"]["micros"] == 10_000_000
    listed = client.get("/api/jobs", headers=person.headers).json()["data"]
    assert [each["id"] for each in listed] == [job["id"]]
    timeline = client.get(f"/api/jobs/{job['id']}/timeline", headers=person.headers).json()["data"]
    assert [entry["topic"] for entry in timeline] == ["JobApproved"]


def test_a_job_is_not_denied_while_the_projector_is_down(
    late_client: TestClient, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(freshness, "WAIT_SECONDS", 0.05)
    person, body = ready(platform)
    anywhere = late_client.post("/api/jobs", json=body, headers=person.headers)
    assert (anywhere.status_code, anywhere.json()["error"]["code"]) == (503, "not_yet_visible")
    here = body | {"region": "local", "gpu_type": "cpu"}
    job = late_client.post("/api/jobs", json=here, headers=person.headers)
    assert job.status_code == 201
    path = f"/api/jobs/{job.json()['id']}"
    behind = late_client.get(path, headers=person.headers)
    assert (behind.status_code, behind.json()["error"]["code"]) == (503, "not_yet_visible")
    platform.project()
    assert late_client.get(path, headers=person.headers).status_code == 200


def test_the_same_key_makes_one_job(client: TestClient, platform: Platform) -> None:
    person, body = ready(platform)
    headers = person.headers | {"idempotency-key": "once"}
    first, second = (client.post("/api/jobs", json=body, headers=headers) for _ in range(2))
    assert (first.status_code, second.status_code) == (201, 200)
    assert first.json() == second.json()

    other = client.post(
        "/api/jobs", json=body | {"hyperparameters": {"epochs": 2}}, headers=headers
    )
    assert (other.status_code, other.json()["error"]["code"]) == (409, "idempotency_key_reused")

    without = [client.post("/api/jobs", json=body, headers=person.headers) for _ in range(2)]
    assert len({answer.json()["id"] for answer in (first, *without)}) == 3


def test_gpus_that_are_left_open_are_where_the_job_costs_least(
    client: TestClient, platform: Platform
) -> None:
    person, body = ready(platform, dollars=1000)
    headers = person.headers | {"idempotency-key": "once"}

    def place() -> tuple[str, str]:
        quote = client.post("/api/estimates", json=body, headers=headers).json()
        return quote["region"], quote["gpu_type"]

    assert place() == ("local", "cpu")
    first = client.post("/api/jobs", json=body, headers=headers).json()
    platform.open_pool("h100", 4)
    platform.occupy(2)
    assert place() == ("local", "h100")
    again = client.post("/api/jobs", json=body, headers=headers)
    assert (again.status_code, again.json()["id"]) == (200, first["id"])
    other = client.post("/api/jobs", json=body, headers=person.headers).json()
    assert (first["gpu_type"], other["gpu_type"]) == ("cpu", "h100")


def test_the_same_key_at_once_makes_one_job(client: TestClient, platform: Platform) -> None:
    person, body = ready(platform)
    headers = person.headers | {"idempotency-key": "race"}
    with ThreadPoolExecutor(6) as threads:
        answers = list(
            threads.map(
                lambda epochs: client.post(
                    "/api/jobs",
                    json=body | {"hyperparameters": {"epochs": epochs}},
                    headers=headers,
                ),
                [1, 2, 1, 2, 1, 2],
            )
        )
    approved = [answer for answer in answers if answer.is_success]
    refused = [answer for answer in answers if not answer.is_success]
    assert len({answer.json()["id"] for answer in approved}) == 1
    assert (len(approved), len(refused)) == (3, 3)
    assert {answer.status_code for answer in refused} == {409}


def test_a_suffix_and_the_wish_to_be_deployed_are_kept_with_the_job(
    client: TestClient, platform: Platform
) -> None:
    person, body = ready(platform)
    wished = body | {"suffix": "support", "deploy": True}
    approved = client.post("/api/jobs", json=wished, headers=person.headers).json()
    job = platform.log.load(Job, uuid_of(approved))
    assert (job.order.suffix, job.order.deploy) == ("support", True)
    assert job.model_name.startswith("ft:tiny:support:")
    refused = client.post("/api/jobs", json=body | {"suffix": "a b"}, headers=person.headers)
    assert refused.status_code == 422


def test_an_empty_account_is_refused(client: TestClient, platform: Platform) -> None:
    person, body = ready(platform, dollars=0)
    answer = client.post("/api/jobs", json=body, headers=person.headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (402, "insufficient_balance")


def test_unknown_choices_are_refused(client: TestClient, platform: Platform) -> None:
    person, body = ready(platform)
    validating = str(platform.dataset(person, ready=False))
    for change, status, field in (
        ({"dataset": validating}, 409, "dataset"),
        ({"base_model": "none"}, 422, "base_model"),
        ({"region": "moon"}, 422, "region"),
        ({"gpu_type": "abacus"}, 422, "gpu_type"),
        ({"gpu_type": "l4"}, 422, "gpu_type"),
        ({"gpu_count": 3}, 422, "gpu_count"),
        (
            {"hyperparameters": {"target_modules": ["c_attn"]}},
            422,
            "hyperparameters.target_modules",
        ),
    ):
        answer = client.post("/api/jobs", json=body | change, headers=person.headers)
        assert (answer.status_code, answer.json()["error"]["field"]) == (status, field)


def test_a_validation_dataset_must_be_another_one_that_is_ready(
    client: TestClient, platform: Platform
) -> None:
    person, body = ready(platform)
    theirs = str(platform.dataset(platform.person()))
    for given, status in (
        (theirs, 404),
        (str(platform.dataset(person, ready=False)), 409),
        (body["dataset"], 422),
        ("not a UUID", 422),
    ):
        for path in ("/api/jobs", "/api/estimates"):
            form = body | {"validation_dataset": given}
            answer = client.post(path, json=form, headers=person.headers)
            problem = answer.json()["error"]
            field = problem["field"] if "field" in problem else problem["fields"][0]["field"]
            assert (answer.status_code, field) == (status, "validation_dataset")


def test_a_validation_dataset_is_frozen_in_the_plan_and_frees_the_dataset(
    client: TestClient, platform: Platform
) -> None:
    person, body = ready(platform)
    own = platform.dataset(person)
    form = body | {"validation_dataset": str(own)}
    approved = client.post("/api/jobs", json=form, headers=person.headers).json()
    shown = client.get(f"/api/jobs/{approved['id']}", headers=person.headers).json()
    assert shown["validation_dataset_id"] == str(own)
    assert shown["required_bytes"] > 0
    plan = platform.log.load(Job, uuid_of(approved)).plan
    assert plan.validation is not None
    assert plan.validation.sha256 == own.hex * 2
    split = client.post("/api/estimates", json=body, headers=person.headers).json()
    whole = client.post("/api/estimates", json=form, headers=person.headers).json()
    assert split["estimate"]["tokens"] < 0.91 * whole["estimate"]["tokens"]


def test_an_error_lists_all_problems_of_a_form(client: TestClient, platform: Platform) -> None:
    person, other = platform.person(dollars=1), platform.person()
    form = {
        "dataset": str(platform.dataset(other)),
        "validation_dataset": str(platform.dataset(other)),
        "base_model": "none",
        "region": "moon",
        "gpu_count": "2",
        "hyperparameters": {"epochs": 0, "learning_rate": -1, "lora_r": 10**9, "batch": 4},
    }
    answer = client.post("/api/jobs", json=form, headers=person.headers)
    assert answer.status_code == 422
    assert {problem["field"] for problem in answer.json()["error"]["fields"]} == {
        "dataset",
        "validation_dataset",
        "base_model",
        "region",
        "gpu_count",
        *(f"hyperparameters.{name}" for name in ("epochs", "learning_rate", "lora_r", "batch")),
    }
    nan = '{"dataset": "%s", "base_model": "none", "hyperparameters": {"learning_rate": NaN}}'
    answer = client.post(
        "/api/jobs", content=nan % platform.dataset(person), headers=person.headers
    )
    assert answer.status_code == 422
    assert client.get("/api/jobs", headers=person.headers).json()["data"] == []
    assert not [each for each in platform.topics() if each.startswith("Job")]


def test_a_balance_below_the_upper_bound_is_refused_with_both_figures(
    client: TestClient, platform: Platform
) -> None:
    person, body = ready(platform, dollars=0)
    quote = client.post("/api/estimates", json=body, headers=person.headers).json()
    assert not quote["approvable"]
    needed = quote["estimate"]["high"]
    platform.credit(person, needed["micros"] - 1)
    refused = client.post("/api/jobs", json=body, headers=person.headers)
    error = refused.json()["error"]
    assert (refused.status_code, error["code"]) == (402, "insufficient_balance")
    assert error["figures"] == {
        "balance_micros": needed["micros"] - 1,
        "needed_micros": needed["micros"],
        "missing_micros": 1,
    }
    assert needed["text"] in error["message"]
    platform.credit(person, 1)
    assert client.post("/api/jobs", json=body, headers=person.headers).status_code == 201


def test_a_full_region_is_refused_with_the_wait_unless_it_is_accepted(
    client: TestClient, platform: Platform
) -> None:
    person, body = ready(platform)
    platform.occupy(2)
    refused = client.post("/api/jobs", json=body, headers=person.headers)
    error = refused.json()["error"]
    assert (refused.status_code, error["code"]) == (409, "no_capacity")
    assert error["figures"]["free"] == 0
    assert error["figures"]["wait_seconds"] > 0
    assert error["figures"]["elsewhere"] == []
    waiting = client.post("/api/jobs", json=body | {"wait": True}, headers=person.headers)
    assert waiting.status_code == 201
    job = client.get(f"/api/jobs/{waiting.json()['id']}", headers=person.headers).json()
    assert (job["status"], job["phase"]) == ("training", "waiting for a GPU")
    assert 0 < job["wait_seconds"] < job["remaining_seconds"]
    assert job["billed_seconds"] == 0
    cancelled = client.post(f"/api/jobs/{job['id']}/cancel", headers=person.headers).json()
    assert (cancelled["wait_seconds"], cancelled["remaining_seconds"]) == (None, None)


def test_models_and_catalog(client: TestClient, platform: Platform) -> None:
    person, _ = ready(platform)
    platform.project()
    models = client.get("/api/models", headers=person.headers).json()
    assert [base["name"] for base in models["base_models"]] == [BASE_MODEL]
    assert models["models"] == []
    offered = client.get("/api/catalog", headers=person.headers).json()
    assert offered["gpu_types"][0]["rate_per_hour"]["micros"] == 600_000
    assert offered["regions"][0]["gpu_types"] == ["cpu"]
