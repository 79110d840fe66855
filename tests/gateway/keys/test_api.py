"""The caller's API keys."""

from __future__ import annotations

from uuid import uuid4

from fastapi.testclient import TestClient

from tests.builders.platform import Platform


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
