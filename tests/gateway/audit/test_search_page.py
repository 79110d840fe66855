"""The search for events on the audit page."""

from __future__ import annotations

from datetime import UTC, timedelta
from uuid import UUID, uuid4

import pytest
from fastapi.testclient import TestClient

from domain.access.role import Role
from gateway.audit import pages
from gateway.schemas import job_name
from infrastructure.accounts.profiles import add_account_name
from infrastructure.postgres.store import connect
from infrastructure.settings import Settings
from tests.builders.entries import Entries
from tests.builders.platform import Platform
from tests.gateway.audit.conftest import tamper
from tests.gateway.web.html import Node, read_html
from tests.gateway.web.signed_in import Browser, signed_in
from tests.simulation.story import Story


def search(browser: Browser, **fields: object) -> Node:
    answer = browser.client.get("/audit", params={k: str(v) for k, v in fields.items()})
    assert answer.status_code == 200
    return read_html(answer.text)


def positions(page: Node) -> list[int]:
    found = (each.attributes.get("data-position") for each in page.all())
    return [int(each) for each in found if each is not None]


def topics(page: Node) -> list[str]:
    return [each.attributes["data-topic"] for each in page.all() if "data-topic" in each.attributes]


def link(page: Node, rel: str = "next") -> str | None:
    links = (each for each in page.all() if each.attributes.get("rel") == rel)
    return next((each.attributes["href"] for each in links), None)


def test_all_events_are_listed_newest_first(auditor: Browser, entries: Entries) -> None:
    newest = [each.id for each in entries.entries][::-1]
    page = search(auditor)
    assert positions(page) == newest[: pages.PAGE_EVENTS]
    assert f'href="/audit/events/{newest[0]}"' in auditor.client.get("/audit").text


@pytest.mark.parametrize("order", ["newest", "oldest"])
def test_the_pages_have_every_event_once(auditor: Browser, entries: Entries, order: str) -> None:
    found, address = list[int](), f"/audit?order={order}"
    while address:
        page = read_html(auditor.client.get(address).text)
        found += positions(page)
        address = link(page) or ""
    ids = [each.id for each in entries.entries]
    assert found == (ids[::-1] if order == "newest" else ids)


def test_events_are_found_by_job_and_account(auditor: Browser, story: Story) -> None:
    page = search(auditor, job=job_name(story.job_id), order="oldest")
    assert topics(page)[0] == "JobApproved"
    assert "GpusAllocated" in topics(page)
    own = search(auditor, account=auditor.person.account_id, order="oldest")
    assert topics(own) == ["AccountOpened", "ApiKeyIssued"]


def test_an_account_is_found_by_its_name(
    auditor: Browser, story: Story, settings: Settings
) -> None:
    with connect(settings) as connection:
        add_account_name(connection, story.account_id, "alice")
    by_name = positions(search(auditor, account="alice"))
    assert by_name == positions(search(auditor, account=story.account_id)) != []


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("MinuteMetered", {"MinuteMetered"}), ("ApiKey", {"ApiKeyIssued"})],
)
def test_events_are_found_by_kind(auditor: Browser, kind: str, expected: set[str]) -> None:
    assert set(topics(search(auditor, kind=kind))) == expected


def test_a_period_includes_its_start_and_excludes_its_end(
    auditor: Browser, story: Story, entries: Entries
) -> None:
    resumed = entries.last("JobResumed")
    at = resumed.event.timestamp.astimezone(UTC)
    job = {"job": job_name(story.job_id), "order": "oldest"}
    assert positions(search(auditor, **job, **{"from": at.isoformat()}))[0] == resumed.id
    earlier = search(auditor, **job, until=at.isoformat())
    assert resumed.id not in positions(earlier)
    assert "JobPaused" in topics(earlier)
    before = f"{at - timedelta(seconds=1):%Y-%m-%dT%H:%M:%S}"
    assert resumed.id in positions(search(auditor, **job, **{"from": before}))


def test_invalid_fields_are_marked_and_nothing_is_searched(auditor: Browser) -> None:
    wrong = {"account": "nobody", "job": "x", "kind": "y", "from": "soon", "order": "z"}
    page = search(auditor, **wrong)
    assert positions(page) == []
    for name, value in wrong.items():
        assert repr(value) in page[f"{name}-problem"].text
        assert page[name].attributes["aria-invalid"] == "true"
    late, early = "2026-02-02T00:00", "2026-02-01T00:00"
    page = search(auditor, **{"from": late, "until": early})
    assert "ends before it begins" in page["until-problem"].text


def test_a_search_without_results_says_so(auditor: Browser) -> None:
    assert "No events match." in search(auditor, account=uuid4()).text


def test_times_at_the_ends_of_the_calendar_are_accepted(auditor: Browser) -> None:
    page = search(auditor, **{"from": "0001-01-01T00:00", "until": "9999-12-31T23:59"})
    assert positions(page) != []


def test_a_damaged_event_is_listed_with_its_problem(
    auditor: Browser, story: Story, entries: Entries, settings: Settings
) -> None:
    saved = entries.last("CheckpointSaved").id
    statement = "UPDATE ecolink_events SET state = '\\x7b' WHERE notification_id = %s"
    tamper(settings, statement, saved)
    page = search(auditor, job=job_name(story.job_id), **{"from": "2000-01-01"})
    assert saved in positions(page)
    assert "The state is not JSON." in page["events"].text


def test_an_auditor_may_search(client: TestClient, platform: Platform) -> None:
    browser = signed_in(client, platform.person(Role.AUDITOR))
    assert positions(search(browser)) != []
    assert '<a href="/audit">Audit</a>' in browser.client.get("/datasets").text


def test_account_holders_may_not_search(client: TestClient, platform: Platform) -> None:
    assert client.get("/audit", follow_redirects=False).status_code == 303
    browser = signed_in(client, platform.person())
    answer = browser.client.get("/audit")
    assert answer.status_code == 403
    assert 'href="/audit"' not in browser.client.get("/datasets").text


def test_the_menu_of_an_operator_has_a_link(auditor: Browser) -> None:
    assert '<a href="/audit">Audit</a>' in auditor.client.get("/datasets").text


def test_a_job_may_be_given_as_a_uuid(auditor: Browser, story: Story) -> None:
    assert isinstance(story.job_id, UUID)
    assert positions(search(auditor, job=story.job_id)) == positions(
        search(auditor, job=job_name(story.job_id))
    )
