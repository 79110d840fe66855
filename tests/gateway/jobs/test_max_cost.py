"""The maximum cost of a job in the API and on the job's page."""

from __future__ import annotations

from uuid import UUID

import pytest
from fastapi.testclient import TestClient

from domain.jobs.guarantee import Guarantee
from domain.jobs.job import Job
from domain.jobs.lifecycle import PauseReason, SegmentEnd
from tests.builders.platform import Platform
from tests.gateway.jobs.owners import Owner, Reader

SECONDS = 600
"""Billed time of the first segment."""


def reach(owner: Owner) -> int:
    """Pause the job at its maximum cost. Return the cost."""
    owner.train()
    owner.bill(1, SECONDS)
    cost = owner.rate * SECONDS // 3600
    owner.act(lambda job: job.change_max_cost(cost))
    owner.end(reason=SegmentEnd.LEASE_ENDED, shortfall=PauseReason.MAX_COST)
    owner.platform.project()
    return cost


@pytest.mark.parametrize("max_cost", ["1.25", None])
def test_an_approval_contains_the_maximum_cost(
    client: TestClient, platform: Platform, max_cost: str | None
) -> None:
    person, form = platform.ready()
    body = form | {"max_cost": max_cost}
    headers = person.headers | {"idempotency-key": "k"}
    answers = [client.post("/api/jobs", json=body, headers=headers) for _ in range(2)]
    assert [each.status_code for each in answers] == [201, 200]
    platform.project()
    shown = client.get(f"/api/jobs/{answers[0].json()['id']}", headers=person.headers).json()
    maximum = shown["max_cost"] and shown["max_cost"]["micros"]
    assert maximum == (max_cost and 1_250_000)
    other = client.post("/api/jobs", json=form | {"max_cost": "9"}, headers=headers)
    assert other.json()["error"]["code"] == "idempotency_key_reused"


def test_without_a_choice_the_upper_bound_of_the_estimate_is_a_guarantee(
    client: TestClient, platform: Platform
) -> None:
    person, form = platform.ready()
    quote = client.post("/api/estimates", json=form, headers=person.headers).json()
    high = quote["estimate"]["high"]["micros"]
    assert "You pay at most" in quote["price_note"]
    answer = client.post("/api/jobs", json=form, headers=person.headers).json()
    assert (answer["max_cost"], answer["pay_at_most"]["micros"]) == (None, high)
    job = platform.log.load(Job, UUID(answer["id"].removeprefix("ftjob-")))
    assert job.guarantee == Guarantee.of(job.estimate, 3)
    assert (job.guarantee and job.guarantee.micros) == high


@pytest.mark.parametrize("max_cost", ["much", "0", "0.000001"])
def test_an_invalid_maximum_cost_is_refused(
    client: TestClient, platform: Platform, max_cost: str
) -> None:
    person, form = platform.ready()
    answer = client.post("/api/jobs", json=form | {"max_cost": max_cost}, headers=person.headers)
    assert (answer.status_code, "max_cost" in answer.text) == (422, True)


def test_a_resume_needs_a_higher_maximum_cost(owner: Owner, platform: Platform) -> None:
    cost = reach(owner)
    shown = owner.read()
    assert (shown["pause_reason"], shown["max_cost"]["micros"]) == ("max_cost", cost)
    assert (shown["resume"]["allowed"], shown["cost"]["micros"]) == (False, cost)
    refused = owner.give("resume")
    assert (refused.status_code, refused.json()["error"]["code"]) == (402, "spending_limit_reached")
    assert refused.json()["error"]["figures"] == {"spent_micros": cost, "max_cost_micros": cost}
    raised = owner.give("max-cost", max_cost="5")
    assert (raised.status_code, raised.json()["max_cost"]["micros"]) == (200, 5_000_000)
    assert owner.give("resume").json()["status"] == "training"
    assert owner.give("max-cost", max_cost=None).json()["max_cost"] is None
    assert owner.topics()[-3:] == ["MaxCostChanged", "JobResumed", "MaxCostChanged"]


def test_the_maximum_cost_of_a_cancelled_job_stays(owner: Owner) -> None:
    owner.give("cancel")
    refused = owner.give("max-cost", max_cost="5")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "wrong_state")


def test_the_page_shows_the_maximum_cost_and_changes_it(reader: Reader) -> None:
    cost = reach(reader)
    assert "max-cost-reached" in reader.notes()
    assert f"Maximum cost ${cost / 1e6:.2f} 100% used" in reader.text()
    assert "is not an amount" in reader.post("max-cost", max_cost="much")
    assert "ready-to-resume" in reader.post("max-cost", max_cost="5.00")
    assert "Set a maximum cost" in reader.post("max-cost/remove")


def test_the_request_of_an_expensive_job_starts_the_same_job_again(
    client: TestClient, platform: Platform
) -> None:
    person, form = platform.ready()
    body = form | {"max_cost": "1234.50"}
    job = client.post("/api/jobs", json=body, headers=person.headers).json()
    platform.project()
    request = client.get(f"/api/jobs/{job['id']}/request", headers=person.headers).json()
    assert request["max_cost"] == "1234.50"
    again = client.post("/api/jobs", json=request, headers=person.headers)
    assert again.status_code == 201
