"""Routes with which operators manage accounts and their keys."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from fastapi.testclient import TestClient

from domain.access.rights import KeyRequest
from domain.access.role import Role
from domain.access.scope import Scope
from tests.builders.platform import Platform
from tests.gateway.api_user import ApiUser


@pytest.fixture
def operator(client: TestClient, platform: Platform) -> ApiUser:
    return ApiUser(client, platform.person(Role.OPERATOR))


def test_an_operator_creates_an_account_with_a_key(operator: ApiUser) -> None:
    made = operator.post("/api/accounts", {"name": "ada", "time_zone": "Asia/Tokyo"})
    assert made.status_code == 201
    account = made.json()
    assert (account["name"], account["role"], account["suspension"]) == ("ada", "owner", None)
    path = f"/api/accounts/{account['id']}"
    assert operator.get(path).json() == account
    assert operator.list(f"{path}/keys") == []
    key = operator.post(f"{path}/keys", {"name": "laptop", "scopes": ["read", "train"]}).json()
    (listed,) = operator.list(f"{path}/keys")
    assert listed == {name: key[name] for name in key if name != "secret"} | {
        "created_by_operator": True,
        "expired": False,
        "revoked_at": None,
        "last_used_at": None,
        "current": False,
    }
    own = {"authorization": f"Bearer {key['secret']}"}
    assert operator.client.get("/api/account", headers=own).json()["name"] == "ada"
    assert operator.post(f"{path}/keys/{key['id']}/revoke").json()["revoked_at"] is not None
    assert operator.client.get("/api/account", headers=own).status_code == 401


def test_the_secret_of_a_key_is_in_no_log(
    operator: ApiUser, platform: Platform, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        path = f"/api/accounts/{platform.person().account_id}/keys"
        secret = operator.post(path).json()["secret"]
    assert secret not in caplog.text
    stored = platform.log.recorder.select_notifications(start=1, limit=100)
    assert not [each for each in stored if secret.encode() in bytes(each.state)]


def test_a_name_is_unique_and_no_id(operator: ApiUser) -> None:
    operator.post("/api/accounts", {"name": "ada"})
    for name in ("ada", " ada ", str(uuid4()), "", "x" * 101):
        refused = operator.post("/api/accounts", {"name": name})
        assert refused.status_code == 422, name


def test_a_refused_role_leaves_the_name_free(operator: ApiUser) -> None:
    refused = operator.post("/api/accounts", {"name": "ada", "role": "member"})
    assert refused.json()["error"]["field"] == "role"
    assert operator.post("/api/accounts", {"name": "ada"}).status_code == 201


def test_a_key_of_another_account_has_no_more_rights_than_that_of_the_operator(
    client: TestClient, platform: Platform
) -> None:
    ends = datetime.now(UTC) + timedelta(days=1)
    limited = KeyRequest(scopes=[Scope.READ, Scope.KEYS], expires_at=ends)
    key = platform.key(platform.person(Role.OPERATOR).account_id, limited)
    operator = ApiUser(client, key)
    path = f"/api/accounts/{platform.person().account_id}/keys"
    made = operator.post(path).json()
    assert made["scopes"] == ["read", "keys"]
    assert datetime.fromisoformat(made["expires_at"]) == ends
    assert operator.post(path, {"scopes": ["train"]}).json()["error"]["field"] == "scopes"
    later = (ends + timedelta(days=1)).isoformat()
    assert operator.post(path, {"expires_at": later}).json()["error"]["field"] == "expires_at"
    auditor = f"/api/accounts/{platform.person(Role.AUDITOR).account_id}/keys"
    assert operator.post(auditor).json()["scopes"] == ["read"]
    assert operator.post(auditor, {"role": "owner"}).json()["error"]["field"] == "role"


def test_the_actor_of_a_key_for_another_account_is_the_operator(
    operator: ApiUser, platform: Platform
) -> None:
    account = platform.person().account_id
    operator.post(f"/api/accounts/{account}/keys")
    issued = platform.log.recorder.select_notifications(start=1, limit=100)[-1]
    assert f"key:{operator.person.key_id}".encode() in bytes(issued.state)


def test_an_account_is_suspended_and_reinstated(operator: ApiUser, platform: Platform) -> None:
    person = platform.person()
    path = f"/api/accounts/{person.account_id}"
    for _ in range(2):
        suspended = operator.post(f"{path}/suspend", {"reason": "security"})
        assert suspended.json()["suspension"] == "security"
    (listed,) = operator.list("/api/accounts", suspended=True)
    assert listed["id"] == str(person.account_id)
    assert operator.post(f"{path}/suspend", {"reason": "whim"}).status_code == 422
    assert operator.post(f"{path}/reinstate").json()["suspension"] is None
    assert operator.list("/api/accounts", suspended=True) == []
    assert platform.topics().count("AccountSuspended") == 1
    own = f"/api/accounts/{operator.person.account_id}"
    assert operator.post(f"{own}/suspend", {"reason": "other"}).status_code == 409


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "", None),
        ("GET", "/keys", None),
        ("POST", "/keys", None),
        ("POST", f"/keys/{UUID(int=9)}/revoke", None),
        ("POST", "/suspend", {"reason": "other"}),
        ("POST", "/reinstate", None),
    ],
)
def test_an_unknown_account_is_not_found(
    operator: ApiUser, method: str, path: str, body: object
) -> None:
    answer = operator.client.request(
        method, f"/api/accounts/{uuid4()}{path}", json=body, headers=operator.person.headers
    )
    assert answer.status_code == 404
