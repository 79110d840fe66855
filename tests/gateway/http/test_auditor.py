"""An auditor reads every account and changes none."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from fastapi.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from domain.access.role import Role
from tests.builders.platform import Person, Platform
from tests.gateway.jobs.owners import Owner
from tests.gateway.web.signed_in import signed_in


@pytest.fixture
def auditor(platform: Platform) -> Person:
    return platform.person(Role.AUDITOR)


def reading(auditor: Person, account: object) -> dict[str, str]:
    return auditor.headers | {"ecolink-account": str(account)}


def data(client: TestClient, path: str, headers: dict[str, str], **params: Any) -> Any:
    answer = client.get(f"/api/{path}", headers=headers, params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_an_auditor_reads_what_the_owner_reads(
    client: TestClient, platform: Platform, auditor: Person
) -> None:
    owner = Owner(client, platform)
    owner.train()
    job = owner.path.rpartition("/")[2]
    platform.project()
    headers = reading(auditor, owner.person.account_id)
    for path in ("account", "jobs", f"jobs/{job}", f"jobs/{job}/timeline", "ledger", "events"):
        assert data(client, path, headers) == data(client, path, owner.person.headers), path
    assert data(client, "jobs", auditor.headers)["data"] == []


def test_an_auditor_lists_accounts_and_follows_all_events(
    client: TestClient, platform: Platform, auditor: Person
) -> None:
    people = [platform.person() for _ in range(3)]
    platform.project()
    first = data(client, "accounts", auditor.headers, limit=2)
    rest = data(client, "accounts", auditor.headers, after=first["data"][-1]["id"])
    listed = [each["id"] for each in [*first["data"], *rest["data"]]]
    assert (first["has_more"], rest["has_more"]) == (True, False)
    everybody = {str(each.account_id) for each in [auditor, *people]}
    assert everybody <= set(listed)
    events = data(client, "events", auditor.headers, all_accounts=True)["data"]
    assert everybody <= {each["account_id"] for each in events}
    assert client.get("/api/accounts", headers=people[0].headers).status_code == 403


def test_an_auditor_changes_and_downloads_nothing(
    client: TestClient, platform: Platform, auditor: Person
) -> None:
    owner = Owner(client, platform)
    job = owner.path.rpartition("/")[2]
    headers = reading(auditor, owner.person.account_id)
    for path in (f"/api/jobs/{job}/cancel", "/api/keys", "/v1/chat/completions"):
        assert client.post(path, json={}, headers=headers).status_code == 403, path
    dataset = data(client, f"jobs/{job}", headers)["dataset_id"]
    content = client.get(f"/api/datasets/{dataset}/content", headers=headers)
    assert (content.status_code, content.json()["error"]["code"]) == (403, "forbidden")


def test_the_header_with_an_account_is_only_for_auditors(
    client: TestClient, platform: Platform, auditor: Person
) -> None:
    person, other = platform.person(), platform.person()
    answer = client.get("/api/jobs", headers=reading(person, other.account_id))
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden")
    unknown = client.get("/api/jobs", headers=reading(auditor, uuid4()))
    assert unknown.status_code == 404
    assert client.get("/api/jobs", headers=reading(auditor, "alice")).status_code == 422


def test_an_auditor_follows_the_stream_of_an_account(
    client: TestClient, platform: Platform, auditor: Person
) -> None:
    person = platform.person()
    headers = reading(auditor, person.account_id)
    with client.websocket_connect("/api/events/stream", headers=headers) as socket:
        assert socket.receive_json()["account_id"] == str(person.account_id)
    with client.websocket_connect(
        "/api/events/stream", headers=reading(person, auditor.account_id)
    ) as socket:
        with pytest.raises(WebSocketDisconnect) as closed:
            socket.receive_json()
    assert closed.value.code == 4403


def test_an_auditor_reads_the_pages_of_an_account(
    client: TestClient, platform: Platform, auditor: Person
) -> None:
    owner = Owner(client, platform)
    job = owner.path.rpartition("/")[2]
    browser = signed_in(client, auditor)
    assert "as an auditor" in client.get("/fine-tune").text
    assert client.get(f"/fine-tune/{job}").status_code == 404
    form = {"account": str(owner.person.account_id), "csrf_token": browser.csrf_token}
    shown = client.post("/viewing", data=form, follow_redirects=False)
    assert (shown.status_code, shown.headers["location"]) == (303, "/fine-tune")
    for path in (f"/fine-tune/{job}", "/billing", "/models", "/datasets"):
        assert client.get(path).status_code == 200, path
    refused = client.post(f"/fine-tune/{job}/cancel", headers=browser.htmx)
    assert 'data-code="missing_scope"' in refused.text
    unknown = client.post("/viewing", data=form | {"account": "nobody"})
    assert unknown.status_code == 404


def test_a_cookie_with_an_unknown_account_is_ignored_and_deleted(
    client: TestClient, platform: Platform, auditor: Person
) -> None:
    browser = signed_in(client, auditor)
    for stale in (str(uuid4()), "alice"):
        client.cookies.set("ecolink_account", stale, domain="testserver.local", path="/")
        shown = client.get("/fine-tune")
        assert shown.status_code == 200, stale
        assert "ecolink_account" not in client.cookies, stale
    account, form = platform.person().account_id, {"csrf_token": browser.csrf_token}
    client.cookies.set("ecolink_account", str(uuid4()), domain="testserver.local", path="/")
    chosen = client.post("/viewing", data=form | {"account": str(account)}, follow_redirects=False)
    assert (chosen.status_code, client.cookies["ecolink_account"]) == (303, str(account))
    client.cookies.set("ecolink_account", str(uuid4()), domain="testserver.local", path="/")
    left = client.post("/sign-out", data=form, follow_redirects=False)
    assert (left.status_code, list(client.cookies)) == (303, [])


def test_a_new_session_begins_without_the_account_of_the_previous_one(
    client: TestClient, platform: Platform, auditor: Person
) -> None:
    browser = signed_in(client, auditor)
    form = {"account": str(platform.person().account_id), "csrf_token": browser.csrf_token}
    client.post("/viewing", data=form, follow_redirects=False)
    assert "ecolink_account" in client.cookies
    signed_in(client, auditor)
    assert "ecolink_account" not in client.cookies
