"""The caller's API keys."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from domain.access.rights import KeyRequest
from domain.access.scope import Scope
from infrastructure.accounts.key_uses import KeyUses, last_uses
from infrastructure.postgres.store import connect
from infrastructure.settings import Settings
from tests.builders.commands import NOW
from tests.builders.platform import Platform
from tests.polling import eventually

HOUR = timedelta(hours=1)


def test_a_new_key_works_at_once_and_its_secret_is_shown_once(
    client: TestClient, platform: Platform
) -> None:
    person = platform.person()
    made = client.post("/api/keys", headers=person.headers)
    assert made.status_code == 201
    key = made.json()
    fresh = {"authorization": f"Bearer {key['secret']}"}
    listed = client.get("/api/keys", headers=fresh).json()["data"]
    assert [each["id"] for each in listed] == [str(person.key_id), key["id"]]
    assert [each["current"] for each in listed] == [False, True]
    assert key["secret"] not in client.get("/api/keys", headers=fresh).text
    account = client.get("/api/account", headers=fresh).json()
    assert account["id"] == str(person.account_id)


def test_a_revoked_key_ends_at_once_and_revoking_again_changes_nothing(
    client: TestClient, platform: Platform
) -> None:
    person = platform.person()
    key = client.post("/api/keys", headers=person.headers).json()
    fresh = {"authorization": f"Bearer {key['secret']}"}
    path = f"/api/keys/{key['id']}/revoke"
    first = client.post(path, headers=fresh)
    assert (first.status_code, first.json()["current"]) == (200, True)
    assert client.get("/api/keys", headers=fresh).status_code == 401
    again = client.post(path, headers=person.headers)
    assert again.json() == first.json() | {"current": False}


def test_another_accounts_keys_are_neither_shown_nor_revoked(
    client: TestClient, platform: Platform
) -> None:
    person, other = platform.person(), platform.person()
    for key_id in (other.key_id, other.account_id, uuid4()):
        answer = client.post(f"/api/keys/{key_id}/revoke", headers=person.headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    assert client.get("/api/keys", headers=other.headers).status_code == 200
    shown = client.get("/api/keys", headers=person.headers).json()["data"]
    assert [each["id"] for each in shown] == [str(person.key_id)]


def test_a_key_has_a_name_scopes_and_an_expiry(client: TestClient, platform: Platform) -> None:
    person = platform.person()
    ends = datetime.now(UTC) + timedelta(days=30)
    form: dict[str, Any] = {"name": " CI ", "role": "member", "scopes": ["train", "read"]}
    made = client.post(
        "/api/keys", json=form | {"expires_at": ends.isoformat()}, headers=person.headers
    )
    assert made.status_code == 201
    listed = client.get("/api/keys", headers=person.headers).json()["data"]
    assert [each["name"] for each in listed] == [None, "CI"]
    key = listed[1]
    assert (key["role"], key["scopes"], key["expired"]) == ("member", ["read", "train"], False)
    assert datetime.fromisoformat(key["expires_at"]) == ends
    assert listed[0]["scopes"] == ["read", "train", "deploy", "billing", "keys"]


def test_a_key_issues_only_keys_with_its_own_rights(client: TestClient, platform: Platform) -> None:
    account = platform.person().account_id
    issuer = platform.key(account, KeyRequest(scopes=[Scope.READ, Scope.KEYS]))
    made = client.post("/api/keys", headers=issuer.headers).json()
    assert made["scopes"] == ["read", "keys"]
    refused = client.post("/api/keys", json={"scopes": ["billing"]}, headers=issuer.headers)
    assert (refused.status_code, refused.json()["error"]["field"]) == (422, "scopes")
    past = {"expires_at": "2020-01-01T00:00:00Z"}
    refused = client.post("/api/keys", json=past, headers=issuer.headers)
    assert (refused.status_code, refused.json()["error"]["field"]) == (422, "expires_at")


def test_an_expired_key_is_refused(client: TestClient, platform: Platform) -> None:
    person = platform.person()
    ends = platform.cause.now + timedelta(microseconds=1)
    expired = platform.key(person.account_id, KeyRequest(expires_at=ends))
    answer = client.get("/api/account", headers=expired.headers)
    assert answer.status_code == 401
    assert "expired at" in answer.json()["error"]["message"]
    signed_in = client.post("/sign-in", data={"api_key": expired.key}, follow_redirects=False)
    assert signed_in.status_code == 200
    platform.project()
    listed = client.get("/api/keys", headers=person.headers).json()["data"]
    assert {each["id"]: each["expired"] for each in listed} == {
        str(person.key_id): False,
        str(expired.key_id): True,
    }


def test_a_stream_ends_when_its_key_expires(client: TestClient, platform: Platform) -> None:
    account = platform.person().account_id
    ends = datetime.now(UTC) + timedelta(seconds=2)
    key = platform.key(account, KeyRequest(expires_at=ends))
    with client.websocket_connect("/api/events/stream", headers=key.headers) as socket:
        with pytest.raises(WebSocketDisconnect) as closed:
            list(iter(socket.receive_json, None))
    assert closed.value.code == 4401
    assert "expired" in closed.value.reason
    assert datetime.now(UTC) >= ends


def test_a_waiting_request_ends_when_its_key_is_revoked(
    client: TestClient, platform: Platform
) -> None:
    assert isinstance(client.app, FastAPI)
    person, feed = platform.person(), client.app.state.feed
    head = platform.log.recorder.max_notification_id()
    eventually(lambda: feed.position >= head)
    listeners = len(feed._listeners)
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(
            client.get,
            "/api/events",
            params={"after": head, "wait": 30},
            headers=person.headers,
        )
        eventually(lambda: len(feed._listeners) > listeners)
        platform.revoke(person)
        assert waiting.result(20).status_code == 401


def test_the_list_shows_the_latest_stored_use(
    client: TestClient, platform: Platform, settings: Settings
) -> None:
    """The listed key is another one, because each request of the client is a use, too."""
    person = platform.person()
    other = platform.key(person.account_id, KeyRequest())
    platform.project()

    def shown() -> str | None:
        listed = client.get("/api/keys", headers=person.headers).json()["data"]
        return next(each["last_used_at"] for each in listed if each["id"] == str(other.key_id))

    assert shown() is None
    uses = KeyUses()
    with connect(settings) as connection:
        for used_at, latest in ((NOW, NOW), (NOW - HOUR, NOW), (NOW + HOUR, NOW + HOUR)):
            uses.note(other.key_id, used_at)
            uses.store(connection)
            assert shown() == latest.isoformat().replace("+00:00", "Z")


def test_a_request_notes_the_use_of_its_key(
    client: TestClient, platform: Platform, settings: Settings
) -> None:
    assert isinstance(client.app, FastAPI)
    person = platform.person()
    client.get("/api/keys", headers=person.headers)
    with connect(settings) as connection:
        client.app.state.key_uses.store(connection)
        eventually(lambda: last_uses(connection, [person.key_id]))
