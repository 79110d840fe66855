"""The page of a job's events."""

from __future__ import annotations

import re

import pytest

from gateway.jobs.pages import job_page
from tests.builders.platform import Platform
from tests.gateway.jobs.owners import Reader
from tests.gateway.web.signed_in import signed_in


def shown(reader: Reader, query: str = "") -> str:
    answer = reader.client.get(f"{reader.page_path}/events{query}")
    assert answer.status_code == 200
    return answer.text


def sequences(page: str) -> list[int]:
    return [int(each) for each in re.findall(r'<tr data-sequence="(\d+)"', page)]


def test_the_page_shows_what_the_api_lists(reader: Reader) -> None:
    reader.train()
    listed = reader.read("/events")
    assert [each["sequence"] for each in listed["data"]] == sequences(shown(reader))
    assert {each["event"] for each in listed["data"]} >= {"JobApproved", "CheckpointSaved"}
    assert not listed["has_more"]
    every = reader.client.get(f"/api/events?job={reader.name}", headers=reader.person.headers)
    assert every.json()["data"] == listed["data"]


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
