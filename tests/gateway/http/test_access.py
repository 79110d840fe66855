"""Keys, roles, and objects of other accounts."""

from __future__ import annotations

from uuid import uuid4

from fastapi.testclient import TestClient

from domain.access.role import Role
from domain.core.aggregate import Event
from tests.builders.platform import Platform


def test_health_needs_no_key(client: TestClient) -> None:
    assert client.get("/healthz").json() == {"status": "ok", "disk": "ok"}


def test_requests_without_a_valid_key_are_refused(client: TestClient) -> None:
    for header in (None, "Bearer eco_wrong", "Basic eco_wrong", "Bearer"):
        headers = {} if header is None else {"authorization": header}
        answer = client.get("/api/account", headers=headers)
        assert answer.status_code == 401, header
        assert answer.json()["error"]["code"] == "unauthenticated"
        assert answer.headers["www-authenticate"] == "Bearer"


def test_a_revoked_key_is_refused_at_once(client: TestClient, platform: Platform) -> None:
    person = platform.person()
    assert client.get("/api/account", headers=person.headers).status_code == 200
    platform.revoke(person)
    assert client.get("/api/account", headers=person.headers).status_code == 401


def test_a_user_cannot_call_operator_routes(client: TestClient, platform: Platform) -> None:
    person = platform.person()
    credits = client.post(
        f"/api/accounts/{person.account_id}/credits",
        json={"amount": "5", "reference": "mine"},
        headers=person.headers,
    )
    assert credits.status_code == 403
    assert client.get("/api/operator/parked", headers=person.headers).status_code == 403


def test_objects_of_another_account_are_not_found(client: TestClient, platform: Platform) -> None:
    owner, other = platform.person(dollars=1), platform.person(dollars=1)
    platform.base_model()
    dataset = platform.dataset(owner)
    body = {"dataset": str(dataset), "base_model": "tiny"}
    job = client.post("/api/jobs", json=body, headers=owner.headers).json()["id"]
    unknown = f"ftjob-{uuid4().hex}"

    for path in (f"datasets/{dataset}", f"datasets/{dataset}/report"):
        theirs = client.get(f"/api/{path}", headers=other.headers)
        nothing = client.get(
            f"/api/{path}".replace(str(dataset), str(uuid4())), headers=other.headers
        )
        assert theirs.status_code == nothing.status_code == 404
        assert theirs.json()["error"].keys() == nothing.json()["error"].keys()
    for view in ("", "/steps", "/timeline", "/log"):
        theirs = client.get(f"/api/jobs/{job}{view}", headers=other.headers)
        nothing = client.get(f"/api/jobs/{unknown}{view}", headers=other.headers)
        assert theirs.status_code == nothing.status_code == 404
        assert theirs.text.replace(job, "") == nothing.text.replace(unknown, "")
    assert client.post("/api/jobs", json=body, headers=other.headers).status_code == 404
    assert client.get("/api/jobs", headers=other.headers).json()["data"] == []
    assert client.get("/api/datasets", headers=other.headers).json()["data"] == []
    assert client.get(f"/api/ledger?job={job}", headers=other.headers).json()["data"] == []


def test_an_operators_credit_names_the_key(client: TestClient, platform: Platform) -> None:
    operator, person = platform.person(Role.OPERATOR), platform.person()
    answer = client.post(
        f"/api/accounts/{person.account_id}/credits",
        json={"amount": "5", "reference": "gift"},
        headers=operator.headers,
    )
    *_, credited = platform.log.events.get(person.account_id)
    assert isinstance(credited, Event)
    assert credited.actor == f"key:{operator.key_id}"
    assert credited.account_id == person.account_id
    assert credited.command_id == answer.headers["x-request-id"]
