"""Events after a sequence: filtered by account, in order, without gaps or repeats."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from fastapi.testclient import TestClient

from domain.access.role import Role
from gateway.events import feed as event_feed
from tests.builders.platform import Person, Platform
from tests.gateway.jobs.owners import Owner
from tests.logs import grow

PATH, STREAM = "/api/events", "/api/events/stream"
TRAINS = ["JobApproved", "SegmentAllocated", "PodStarted", "TrainingStarted"]


def page(client: TestClient, person: Person, **asked: Any) -> dict[str, Any]:
    answer = client.get(PATH, params=asked, headers=person.headers)
    assert answer.status_code == 200, answer.text
    return answer.json()


def everything(client: TestClient, person: Person, limit: int, **asked: Any) -> list[Any]:
    """Read all pages."""
    found, after = [], 0
    while True:
        got = page(client, person, after=after, limit=limit, **asked)
        found += got["data"]
        after = got["next_after"]
        if not got["has_more"]:
            return found


def names(data: list[dict[str, Any]]) -> list[str]:
    return [each["event"] for each in data]


def test_an_event_has_its_sequence_and_its_job(client: TestClient, platform: Platform) -> None:
    owner = Owner(client, platform)
    owner.train()
    (saved,) = [
        each for each in page(client, owner.person)["data"] if each["event"] == "CheckpointSaved"
    ]
    assert saved["id"].startswith(f"{owner.job_id}:")
    assert saved["job_id"] == owner.path.rpartition("/")[2]
    assert saved["account_id"] == str(owner.person.account_id)
    assert saved["timestamp"]
    assert saved["fields"]["step"] == 10
    assert not saved["fields"].keys() & {"actor", "command_id", "timestamp", "account_id"}


def test_only_own_events_are_returned_in_log_order(client: TestClient, platform: Platform) -> None:
    owner, other = Owner(client, platform), platform.person(dollars=1)
    assert names(page(client, other)["data"]) == ["AccountOpened", "CreditGranted", "ApiKeyIssued"]
    assert names(page(client, owner.person)["data"]) == [
        *("AccountOpened", "CreditGranted", "ApiKeyIssued"),
        *("DatasetUploaded", "DatasetValidated", "TokensCounted", "JobApproved"),
    ]
    operator = platform.person(Role.OPERATOR)
    assert len(page(client, operator)["data"]) == 2
    whole = everything(client, operator, 7, all_accounts=True)
    assert [each["sequence"] for each in whole] == sorted({each["sequence"] for each in whole})
    assert names(whole) == platform.topics()
    refused = client.get(PATH, params={"all_accounts": True}, headers=owner.person.headers)
    assert refused.status_code == 403


def test_the_hash_of_a_key_is_not_shown(client: TestClient, platform: Platform) -> None:
    (issued,) = [
        each for each in page(client, platform.person())["data"] if each["event"] == "ApiKeyIssued"
    ]
    assert "sha256" not in issued["fields"]


def test_the_events_of_one_job(client: TestClient, platform: Platform) -> None:
    owner = Owner(client, platform)
    client.post("/api/jobs", json=owner.form, headers=owner.person.headers)
    owner.train()
    job = owner.path.rpartition("/")[2]
    assert names(page(client, owner.person, job=job)["data"]) == [*TRAINS, "CheckpointSaved"]
    stranger = client.get(PATH, params={"job": job}, headers=platform.person().headers)
    assert stranger.status_code == 404


def test_events_continue_after_the_sequence_of_a_job(
    client: TestClient, platform: Platform
) -> None:
    owner = Owner(client, platform)
    owner.train()
    seen = client.get(owner.path, headers=owner.person.headers).json()
    owner.end()
    news = page(client, owner.person, after=seen["sequence"])["data"]
    before = page(client, owner.person)["data"]
    assert names(news)[-1] == "SegmentEnded"
    assert before[-len(news) :] == news
    assert (seen["step"] == 10) == ("CheckpointSaved" not in names(news))


@pytest.mark.parametrize("projects", [True, False])
def test_pages_neither_miss_nor_repeat(
    late_client: TestClient, platform: Platform, projects: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The projector may be running or not."""
    monkeypatch.setattr(event_feed, "BATCH_EVENTS", 20)
    monkeypatch.setattr(event_feed, "SCANNED_EVENTS", 40)
    person = platform.person()
    grow(platform.log, 30)
    grow(platform.log, 150, person.account_id)
    if projects:
        platform.project()
    grow(platform.log, 60)
    grow(platform.log, 50, person.account_id)
    found = everything(late_client, person, 7)
    assert len(found) == 200 + 2
    assert [each["fields"].get("reference") for each in found[2:]] == [
        f"credit-{n}" for n in range(1, 201)
    ]


def test_invalid_filters_are_refused(client: TestClient, platform: Platform) -> None:
    person = platform.person()
    for asked, field in (
        ({"after": -1}, "after"),
        ({"after": 10**30}, "after"),
        ({"after": 10**9}, "after"),
        ({"limit": 0}, "limit"),
        ({"wait": 31}, "wait"),
        ({"wait": "nan"}, "wait"),
        ({"job": "x"}, "job"),
    ):
        answer = client.get(PATH, params=asked, headers=person.headers)
        error = answer.json()["error"]
        assert answer.status_code == 422, asked
        assert field in (error.get("field"), *(each["field"] for each in error.get("fields", [])))


def test_a_wait_ends_with_the_next_event(client: TestClient, platform: Platform) -> None:
    person = platform.person()
    after = page(client, person)["next_after"]
    nothing = page(client, person, after=after, wait=0.3)
    assert (nothing["data"], nothing["next_after"]) == ([], after)
    later = threading.Timer(0.2, platform.credit, [person, 5])
    later.start()
    got = page(client, person, after=nothing["next_after"], wait=20)
    later.join()
    assert names(got["data"]) == ["CreditGranted"]


# The stream
