"""The page of a job as of an event."""

from __future__ import annotations

from uuid import uuid4

import pytest
from fastapi.testclient import TestClient

from domain.core.money import exact_dollars
from domain.replay.past import Moment
from gateway.audit.service import Auditor
from gateway.schemas import job_name
from infrastructure.postgres.store import connect
from infrastructure.settings import Settings
from tests.builders.entries import Entries
from tests.builders.platform import Platform
from tests.gateway.audit.conftest import tamper
from tests.gateway.web.html import Node, read_html
from tests.gateway.web.signed_in import Browser, signed_in
from tests.simulation.story import Story


def job_page(browser: Browser, story: Story, **query: int) -> Node:
    answer = browser.client.get(f"/audit/jobs/{job_name(story.job_id)}", params=query)
    assert answer.status_code == 200
    return read_html(answer.text)


def test_the_page_shows_the_newest_state(auditor: Browser, story: Story) -> None:
    page = job_page(auditor, story)
    assert page["state"].attributes["data-status"] == "registered"
    slider = page["number"].attributes
    assert slider["type"] == "range"
    assert slider["value"] == slider["max"]


def test_a_past_state_is_that_of_the_log(
    auditor: Browser, story: Story, entries: Entries, settings: Settings, subtests: pytest.Subtests
) -> None:
    for topic in ("JobApproved", "CheckpointSaved", "JobPaused", "JobResumed"):
        with subtests.test(topic):
            position = entries.last(topic).id
            page = job_page(auditor, story, at=position)
            with connect(settings) as connection:
                past = Auditor(connection).job(story.job_id, Moment(event=position))
            assert page["state"].attributes["data-status"] == past.status
            assert f"Cost {exact_dollars(past.cost_micros)}" in page["state"].text
            assert f"Reserved {exact_dollars(past.reserved_micros)}" in page["state"].text
            assert page["moment-title"].text.startswith(f"Event {past.log.events} of ")
            assert topic in page["moment-event"].text


def test_a_position_between_two_events_shows_the_earlier_one(
    auditor: Browser, story: Story, entries: Entries
) -> None:
    settled = entries.last("UsageSettled")  # of the account
    page = job_page(auditor, story, at=settled.id)
    shown = next(each for each in page["moment-event"].all() if each.tag == "a").text
    assert int(shown) < settled.id


def test_the_slider_works_without_javascript(
    auditor: Browser, story: Story, settings: Settings
) -> None:
    path = f"/audit/jobs/{job_name(story.job_id)}"
    with connect(settings) as connection:
        positions = Auditor(connection).positions(story.job_id)
    for number, expected in ((1, positions[0]), (3, positions[2]), (9_999, positions[-1])):
        answer = auditor.client.get(path, params={"number": number}, follow_redirects=False)
        assert answer.status_code == 303
        assert answer.headers["location"] == f"{path}?at={expected}"


def test_the_slider_updates_the_page_in_place(
    auditor: Browser, story: Story, settings: Settings
) -> None:
    path = f"/audit/jobs/{job_name(story.job_id)}"
    with connect(settings) as connection:
        positions = Auditor(connection).positions(story.job_id)
    answer = auditor.client.get(path, params={"number": 2}, headers=auditor.htmx)
    assert f'href="{path}?at={positions[1]}"' in answer.text
    assert answer.headers["hx-replace-url"] == f"{path}?at={positions[1]}"
    part = read_html(answer.text)
    assert part["number"].attributes["value"] == "2"
    assert part.find("main") is None


def test_a_damaged_event_stops_the_replay(
    auditor: Browser, story: Story, entries: Entries, settings: Settings
) -> None:
    saved = entries.last("CheckpointSaved").id
    tamper(settings, "UPDATE ecolink_events SET state = '' WHERE notification_id = %s", saved)
    page = job_page(auditor, story, at=saved)
    assert f"Event {saved} (CheckpointSaved) is damaged" in page.text
    assert "damaged" in page["moment-event"].text


def test_unknown_jobs_and_positions_are_refused(
    auditor: Browser, story: Story, entries: Entries
) -> None:
    get = auditor.client.get
    assert get(f"/audit/jobs/{job_name(uuid4())}").status_code == 404
    path = f"/audit/jobs/{job_name(story.job_id)}"
    assert get(path, params={"at": 1}).status_code == 404
    assert get(path, params={"at": entries.entries[-1].id + 1}).status_code == 422
    assert get(path, params={"at": 0}).status_code == 422


def test_account_holders_see_no_job(client: TestClient, platform: Platform) -> None:
    path = f"/audit/jobs/{job_name(uuid4())}"
    assert signed_in(client, platform.person()).client.get(path).status_code == 403
