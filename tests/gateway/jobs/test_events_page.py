"""A job's events in the API and on their page."""

from __future__ import annotations

import re

import pytest
from fastapi.testclient import TestClient

from gateway.jobs.pages import job_page
from tests.builders.platform import Platform
from tests.gateway.jobs.reader import Reader
from tests.gateway.web.signed_in import signed_in


@pytest.fixture
def reader(client: TestClient, platform: Platform) -> Reader:
    return Reader(client, platform)


def shown(reader: Reader, query: str = "") -> str:
    answer = reader.client.get(f"{reader.page_path}/events{query}")
    assert answer.status_code == 200
    return answer.text


def sequences(page: str) -> list[int]:
    return [int(each) for each in re.findall(r'<tr data-sequence="(\d+)"', page)]


def test_the_page_shows_what_the_api_lists(reader: Reader) -> None:
    reader.train()
    path = f"/api/jobs/{reader.job_id}/events"
    listed = reader.client.get(path, headers=reader.person.headers).json()
    page = shown(reader)
    assert [each["sequence"] for each in listed["data"]] == sequences(page)
    assert {each["event"] for each in listed["data"]} >= {"JobApproved", "CheckpointSaved"}
    assert not listed["has_more"]
    everything = reader.client.get(
        "/api/events", params={"job": str(reader.job_id)}, headers=reader.person.headers
    ).json()
    assert everything["data"] == listed["data"]


def test_the_page_continues_after_the_last_event(
    reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader.train()
    whole = sequences(shown(reader))
    monkeypatch.setattr(job_page, "SHOWN_EVENTS", 2)
    first = shown(reader)
    later = re.search(r'/events(\?after=\d+)" rel="next"', first)
    assert later is not None
    assert sequences(first) + sequences(shown(reader, later[1])) == whole[:4]


def test_events_of_another_account_are_not_found(reader: Reader, platform: Platform) -> None:
    signed_in(reader.client, platform.person())
    assert reader.client.get(f"{reader.page_path}/events").status_code == 404
