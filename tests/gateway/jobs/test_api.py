"""Approval and retrieval of jobs."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from fastapi.testclient import TestClient

from domain.jobs.job import Job
from gateway.http import read_your_writes as freshness
from gateway.http.openai_vocabulary import job_of
from tests.builders.platform import BASE_MODEL, Person, Platform
from tests.polling import eventually

KEY_REUSED = "idempotency_key_reused"


@dataclass
class Form:
    """The request of a person for a job on a ready dataset."""

    client: TestClient
    person: Person
    fields: dict[str, Any]

    def post(self, path: str = "/api/jobs", *, key: str | None = None, **changes: Any) -> Any:
        """Send the form with some fields changed."""
        headers = self.person.headers | ({"idempotency-key": key} if key else {})
        return self.client.post(path, json=self.fields | changes, headers=headers)

    def quote(self, **changes: Any) -> dict[str, Any]:
        """Return a quote for the form."""
        return self.post("/api/estimates", **changes).json()

    def get(self, path: str) -> Any:
        return self.client.get(f"/api{path}", headers=self.person.headers).json()


@pytest.fixture
def form(client: TestClient, platform: Platform, request: pytest.FixtureRequest) -> Form:
    """A form of a person with $10, or with the dollars that a test names."""
    return Form(client, *platform.ready(getattr(request, "param", 10)))


def with_dollars(dollars: int) -> pytest.MarkDecorator:
    """Give the person another balance."""
    return pytest.mark.parametrize("form", [dollars], indirect=True)


def wanted(platform: Platform) -> set[tuple[str, str]]:
    with psycopg.connect(platform.settings.database_url or "") as connection:
        rows = connection.execute("SELECT dataset_id, base_model FROM wanted_counts").fetchall()
    return {(str(dataset_id), base) for dataset_id, base in rows}


def test_a_job_that_waits_for_its_counts(form: Form, platform: Platform) -> None:
    dataset_id = platform.dataset(form.person, ready=False)
    platform.validate(dataset_id, counted=False)
    platform.project()
    form.fields["dataset"] = str(dataset_id)
    refused = form.post()
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "wrong_state")
    assert wanted(platform) == {(str(dataset_id), BASE_MODEL)}
    requested: dict[str, tuple[str, dict[str, Any]]] = {}
    for place in ({}, {"region": "local", "gpu_type": "cpu"}):
        key, at = f"key {len(place)}", {"wait": True, **place}
        first, again = form.post(key=key, **at), form.post(key=key, **at)
        assert (first.status_code, first.json()["status"]) == (202, "validating_files")
        assert (again.status_code, again.json()) == (202, first.json())
        requested[key] = first.json()["id"], at
        reused = form.post(key=key, **at, hyperparameters={"epochs": 2})
        assert (reused.status_code, reused.json()["error"]["code"]) == (409, KEY_REUSED)
    assert form.get("/jobs")["data"] == []
    platform.count(dataset_id)
    eventually(lambda: len(form.get("/jobs")["data"]) == 2)
    for key, (job_id, at) in requested.items():
        approved = form.post(key=key, **at)
        assert (approved.status_code, approved.json()["id"]) == (200, job_id)


def test_a_job_is_visible_as_soon_as_it_is_approved(form: Form) -> None:
    approved = form.post()
    job = approved.json()
    assert (approved.status_code, job["status"]) == (201, "training")
    assert job["rate_per_hour"] == {"micros": 600_000, "text": "$0.60"}
    for name in (job["id"], str(job_of(job["id"]))):
        shown = form.get(f"/jobs/{name}")
        assert (shown["id"], shown["phase"]) == (job["id"], "waiting for a GPU")
        assert shown["hyperparameters"]["epochs"] == 3
        assert shown["balance"]["micros"] == 10_000_000
    assert [each["id"] for each in form.get("/jobs")["data"]] == [job["id"]]
    timeline = form.get(f"/jobs/{job['id']}/timeline")["data"]
    assert [entry["topic"] for entry in timeline] == ["JobApproved"]


def test_a_job_is_not_yet_visible_while_the_projector_is_down(
    late_client: TestClient, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(freshness, "WAIT_SECONDS", 0.05)
    form = Form(late_client, *platform.ready())
    anywhere = form.post()
    assert (anywhere.status_code, anywhere.json()["error"]["code"]) == (503, "not_yet_visible")
    job = form.post(region="local", gpu_type="cpu").json()
    path = f"/jobs/{job['id']}"
    assert form.get(path)["error"]["code"] == "not_yet_visible"
    platform.project()
    assert form.get(path)["id"] == job["id"]


def test_a_repeated_key_returns_the_same_job(form: Form) -> None:
    first, second = (form.post(key="once") for _ in range(2))
    assert (first.status_code, second.status_code) == (201, 200)
    assert first.json() == second.json()
    other = form.post(key="once", hyperparameters={"epochs": 2})
    assert (other.status_code, other.json()["error"]["code"]) == (409, "idempotency_key_reused")
    assert len({answer.json()["id"] for answer in (first, form.post(), form.post())}) == 3


def test_concurrent_requests_with_one_key_approve_one_job(form: Form) -> None:
    with ThreadPoolExecutor(6) as threads:
        answers = list(
            threads.map(
                lambda epochs: form.post(key="race", hyperparameters={"epochs": epochs}),
                [1, 2, 1, 2, 1, 2],
            )
        )
    approved = [answer for answer in answers if answer.is_success]
    assert len({answer.json()["id"] for answer in approved}) == 1
    refused = [answer.status_code for answer in answers if not answer.is_success]
    assert (len(approved), refused) == (3, [409] * 3)


@with_dollars(1000)
def test_omitted_gpus_are_the_cheapest_free_ones(form: Form, platform: Platform) -> None:
    first = form.post(key="once").json()
    platform.open_pool("h100", 4)
    platform.occupy(2)
    quote = form.quote()
    assert (quote["region"], quote["gpu_type"]) == ("local", "h100")
    again = form.post(key="once")
    assert (again.status_code, again.json()["id"]) == (200, first["id"])
    assert (first["gpu_type"], form.post().json()["gpu_type"]) == ("cpu", "h100")


def test_the_order_is_stored_with_the_job(form: Form, platform: Platform) -> None:
    approved = form.post(suffix="support", deploy=True).json()
    job = platform.log.load(Job, job_of(approved["id"]))
    assert (job.order.suffix, job.order.deploy) == ("support", True)
    assert job.model_name.startswith("ft:tiny:support:")
    assert form.post(suffix="a b").status_code == 422


def test_invalid_choices_are_refused(form: Form, platform: Platform) -> None:
    validating = str(platform.dataset(form.person, ready=False))
    for change, status, field in (
        ({"dataset": validating}, 409, "dataset"),
        ({"base_model": "none"}, 422, "base_model"),
        ({"region": "moon"}, 422, "region"),
        ({"gpu_type": "abacus"}, 422, "gpu_type"),
        ({"gpu_type": "l4"}, 422, "gpu_type"),
        ({"gpu_count": 3}, 422, "gpu_count"),
        ({"hyperparameters": {"target_modules": ["c"]}}, 422, "hyperparameters.target_modules"),
    ):
        answer = form.post(**change)
        assert (answer.status_code, answer.json()["error"]["field"]) == (status, field)


def test_a_validation_dataset_must_be_another_one_that_is_ready(
    form: Form, platform: Platform
) -> None:
    for given, status in (
        (str(platform.dataset(platform.person())), 404),
        (str(platform.dataset(form.person, ready=False)), 409),
        (form.fields["dataset"], 422),
        ("not a UUID", 422),
    ):
        for path in ("/api/jobs", "/api/estimates"):
            answer = form.post(path, validation_dataset=given)
            problem = answer.json()["error"]
            field = problem["field"] if "field" in problem else problem["fields"][0]["field"]
            assert (answer.status_code, field) == (status, "validation_dataset")


def test_a_validation_dataset_is_frozen_in_the_plan_and_frees_the_dataset(
    form: Form, platform: Platform
) -> None:
    own = platform.dataset(form.person)
    approved = form.post(validation_dataset=str(own)).json()
    shown = form.get(f"/jobs/{approved['id']}")
    assert shown["validation_dataset_id"] == str(own)
    assert shown["required_bytes"] > 0
    plan = platform.log.load(Job, job_of(approved["id"])).plan
    assert plan.validation is not None
    assert plan.validation.sha256 == own.hex * 2
    split, whole = form.quote(), form.quote(validation_dataset=str(own))
    assert split["estimate"]["tokens"] < 0.91 * whole["estimate"]["tokens"]


@with_dollars(1)
def test_an_error_lists_all_problems_of_a_form(form: Form, platform: Platform) -> None:
    theirs = str(platform.dataset(platform.person()))
    wrong: dict[str, Any] = {"dataset": theirs, "validation_dataset": theirs}
    wrong |= {"base_model": "none", "region": "moon", "gpu_count": "2"}
    numbers = {"epochs": 0, "learning_rate": -1, "lora_r": 10**9, "batch": 4}
    answer = form.post(**wrong, hyperparameters=numbers)
    assert answer.status_code == 422
    named = {problem["field"] for problem in answer.json()["error"]["fields"]}
    assert named == wrong.keys() | {f"hyperparameters.{name}" for name in numbers}
    nan = '{"dataset": "%s", "base_model": "none", "hyperparameters": {"learning_rate": NaN}}'
    answer = form.client.post(
        "/api/jobs", content=nan % form.fields["dataset"], headers=form.person.headers
    )
    assert answer.status_code == 422
    assert form.get("/jobs")["data"] == []
    assert not [each for each in platform.topics() if each.startswith("Job")]


@with_dollars(0)
def test_a_balance_below_the_upper_bound_is_refused_with_both_figures(
    form: Form, platform: Platform
) -> None:
    assert form.post().json()["error"]["code"] == "insufficient_balance"
    quote = form.quote()
    assert not quote["approvable"]
    needed = quote["estimate"]["high"]
    platform.credit(form.person, needed["micros"] - 1)
    refused = form.post()
    error = refused.json()["error"]
    assert (refused.status_code, error["code"]) == (402, "insufficient_balance")
    assert error["figures"] == {
        "balance_micros": needed["micros"] - 1,
        "needed_micros": needed["micros"],
        "missing_micros": 1,
    }
    assert needed["text"] in error["message"]
    platform.credit(form.person, 1)
    assert form.post().status_code == 201


def test_a_full_region_is_refused_with_the_wait_unless_it_is_accepted(
    form: Form, platform: Platform
) -> None:
    platform.occupy(2)
    refused = form.post()
    error = refused.json()["error"]
    assert (refused.status_code, error["code"]) == (409, "no_capacity")
    assert (error["figures"]["free"], error["figures"]["elsewhere"]) == (0, [])
    assert error["figures"]["wait_seconds"] > 0
    path = f"/jobs/{form.post(wait=True).json()['id']}"
    job = form.get(path)
    assert (job["status"], job["phase"]) == ("training", "waiting for a GPU")
    assert 0 < job["wait_seconds"] < job["remaining_seconds"]
    assert job["billed_seconds"] == 0
    form.client.post(f"/api{path}/cancel", headers=form.person.headers)
    cancelled = form.get(path)
    assert (cancelled["wait_seconds"], cancelled["remaining_seconds"]) == (None, None)
