"""Paged lists have no gaps and no repeats, and mark their end."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from fastapi.testclient import TestClient

from domain.core.aggregate import because
from domain.jobs.job import Job
from gateway.http.openai_vocabulary import job_of
from infrastructure.postgres.store import connect
from infrastructure.training.measurements import add_step
from infrastructure.training.reports import StepMeasured
from tests.builders.examples import saved_checkpoint
from tests.builders.platform import BASE_MODEL, Person, Platform
from tests.gateway.jobs.owners import Owner


def whole(client: TestClient, person: Person, path: str, key: str = "data") -> list[Any]:
    answer = client.get(path, headers=person.headers).json()
    assert answer["has_more"] is False
    return answer[key]


def by_pages(
    client: TestClient,
    person: Person,
    path: str,
    cursor: Callable[[Any], Any],
    key: str = "data",
) -> list[Any]:
    """Read a whole list, two objects a page."""
    found: list[Any] = []
    asked: dict[str, Any] = {"limit": 2}
    while True:
        answer = client.get(path, params=asked, headers=person.headers).json()
        assert len(answer[key]) == 2 or not answer["has_more"]
        found += answer[key]
        if not answer["has_more"]:
            return found
        asked["after"] = cursor(answer[key][-1])


def test_jobs_and_datasets(client: TestClient, platform: Platform) -> None:
    person, form = platform.ready()
    for _ in range(4):
        client.post("/api/jobs", json=form, headers=person.headers)
        platform.dataset(person)
    platform.project()
    for path, count in (("/api/jobs", 4), ("/api/datasets", 5)):
        every = whole(client, person, path)
        assert len(every) == count
        assert by_pages(client, person, path, lambda each: each["id"]) == every


def test_new_objects_are_not_on_later_pages(client: TestClient, platform: Platform) -> None:
    person, form = platform.ready()
    for _ in range(3):
        client.post("/api/jobs", json=form, headers=person.headers)
    every = whole(client, person, "/api/jobs")
    client.post("/api/jobs", json=form, headers=person.headers)
    rest = f"/api/jobs?after={every[0]['id']}"
    assert whole(client, person, rest) == every[1:]


def test_models(client: TestClient, platform: Platform) -> None:
    owner = Owner(client, platform)
    for number in range(3):
        if number:
            approved = client.post("/api/jobs", json=owner.form, headers=owner.person.headers)
            owner.path = f"/api/jobs/{approved.json()['id']}"
            owner.job_id = job_of(approved.json()["id"])
        owner.train()
        owner.give("cancel")
        owner.end()
        assert owner.give("promote").status_code == 200
    every = whole(client, owner.person, "/api/models", "models")
    assert len(every) == 3
    got = by_pages(client, owner.person, "/api/models", lambda each: each["model"], "models")
    assert got == every


def test_deployments(client: TestClient, platform: Platform) -> None:
    owner = Owner(client, platform)
    owner.train(checkpoint=None)
    for step in (10, 20):
        save(owner, step)
        deployed = f"{owner.path}/checkpoints/{step}/deploy"
        assert client.post(deployed, headers=owner.person.headers).status_code == 200
    platform.base_model("another")
    platform.project()
    every = whole(client, owner.person, "/api/deployments")
    names = [each["model"].rpartition(":")[2] for each in every]
    assert names == ["another", BASE_MODEL, "ckpt-step-10", "ckpt-step-20"]
    got = by_pages(client, owner.person, "/api/deployments", lambda each: each["model"])
    assert got == every


def save(owner: Owner, step: int) -> None:
    with because(owner.platform.cause):
        job = owner.platform.log.load(Job, owner.job_id)
        job.save_checkpoint(saved_checkpoint(1, step, 2.0, 5, f"checkpoints/{step}"))
        owner.platform.log.commit(job)


def measured(owner: Owner, step: int) -> StepMeasured:
    return StepMeasured(
        account_id=owner.person.account_id,
        job_id=owner.job_id,
        segment=1,
        step=step,
        total_steps=30,
        train_loss=2.0,
        smoothed_loss=2.0,
        learning_rate=1e-4,
        tokens=100,
        tokens_per_second=50.0,
        elapsed_seconds=float(step),
        peak_memory_bytes=None,
        measured_at=datetime.now(UTC),
    )


def test_a_jobs_timeline_and_steps(client: TestClient, platform: Platform) -> None:
    owner = Owner(client, platform)
    owner.train()
    owner.end()
    with connect(platform.settings) as connection:
        for step in range(1, 6):
            add_step(connection, measured(owner, step))
    platform.project()
    for part, cursor in (("timeline", "position"), ("steps", "step")):
        path = f"{owner.path}/{part}"
        every = whole(client, owner.person, path)
        assert len(every) >= 5
        assert by_pages(client, owner.person, path, lambda each, of=cursor: each[of]) == every


def test_the_ledger(client: TestClient, platform: Platform) -> None:
    person = platform.person()
    for _ in range(5):
        platform.credit(person, 1)
    platform.project()
    every = whole(client, person, "/api/ledger")
    assert len(every) == 5
    assert by_pages(client, person, "/api/ledger", lambda each: each["position"]) == every


NOBODYS = UUID("0b0f8f5c-3a4e-5d0c-9a4d-0e6b1c2d3e4f")


@pytest.mark.parametrize(
    ("path", "after"),
    [
        ("/api/jobs", f"ftjob-{NOBODYS.hex}"),
        ("/api/datasets", str(NOBODYS)),
        ("/api/models", "ft:none:1"),
        ("/api/deployments", "ft:none:1"),
    ],
)
def test_a_page_after_an_unknown_object_is_not_found(
    client: TestClient, platform: Platform, path: str, after: str
) -> None:
    answer = client.get(path, params={"after": after}, headers=platform.person().headers)
    assert answer.status_code == 404
