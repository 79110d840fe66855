"""A suspended account in the API and on the pages."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.testclient import TestClient

from domain.access.role import Role
from domain.jobs.job import Job
from gateway.http.permissions import WEBSOCKET, declared_routes
from infrastructure.extensions import installed
from tests.builders.platform import Platform
from tests.gateway.api_user import ApiUser
from tests.gateway.http.test_permissions import address
from tests.gateway.jobs.owners import Reader
from tests.gateway.web.signed_in import signed_in

PAGES = (
    *("/datasets", "/fine-tune", "/fine-tune/new", "/models", "/billing"),
    *(path for each in installed() for path in each.account_links),
)


def test_a_suspended_account_may_call_only_routes_that_read(
    client: TestClient, platform: Platform
) -> None:
    """Every route with a scope other than `read` refuses its key, and no other one does."""
    assert isinstance(client.app, FastAPI)
    person = platform.person()
    platform.suspend(person)
    wrong: list[str] = []
    for route in declared_routes(client.app):
        permission = route.permission
        if route.method == WEBSOCKET or permission.public or Role.OWNER not in permission.roles:
            continue
        answer = client.request(
            route.method, address(route.path), headers=person.headers, follow_redirects=False
        )
        refused = answer.status_code == 403 and "suspended" in answer.text
        if refused == permission.only_reads:
            wrong.append(f"{route.method} {route.path}: {answer.status_code}")
    assert not wrong


def test_the_error_names_the_reason_and_what_to_do(client: TestClient, platform: Platform) -> None:
    user = ApiUser(client, platform.person())
    platform.suspend(user.person)
    platform.project()
    error = user.post("/api/estimates", {}).json()["error"]
    assert error["code"] == "account_suspended"
    assert error["figures"] == {"reason": "payment"}
    assert "A payment failed or is disputed." in error["message"]
    assert "only read and download until an operator reinstates it." in error["message"]
    v1 = user.post("/v1/chat/completions", {}).json()["error"]
    assert (v1["code"], v1["type"]) == ("account_suspended", "permission_error")
    assert user.get("/api/account").json()["suspension"] == "payment"
    platform.reinstate(user.person)
    assert user.post("/api/estimates", {}).json()["error"]["code"] == "invalid"


def test_every_page_of_a_suspended_account_says_so_and_offers_no_change(
    client: TestClient, platform: Platform
) -> None:
    person = platform.person(dollars=20)
    signed_in(client, person)
    assert "data-suspended" not in client.get("/billing").text
    platform.suspend(person)
    platform.project()
    for path in PAGES:
        page = client.get(path).text
        assert 'data-suspended="payment"' in page, path
        assert 'data-may="read download"' in page, path
    assert "because your account is suspended" in client.get("/fine-tune/new").text
    platform.reinstate(person)
    platform.project()
    assert "data-suspended" not in client.get("/billing").text


def test_a_suspended_account_signs_in_and_an_auditor_sees_its_suspension(
    client: TestClient, platform: Platform
) -> None:
    person = platform.person()
    platform.suspend(person)
    platform.project()
    signed_in(client, person)
    auditor = ApiUser(client, platform.person(Role.AUDITOR))
    client.cookies.clear()
    read = client.get(
        "/api/account", headers=auditor.person.headers | {"ecolink-account": str(person.account_id)}
    )
    assert read.json()["suspension"] == "payment"


def test_a_paused_job_of_a_suspended_account_shows_why_it_does_not_resume(
    client: TestClient, platform: Platform
) -> None:
    reader = Reader(client, platform)
    reader.train()
    reader.act(Job.suspend)
    reader.end()
    platform.suspend(reader.person)
    platform.project()
    assert "paused-suspended" in reader.notes()
    resume = reader.read()["resume"]
    assert resume["allowed"] is False
    assert "suspended" in resume["problem"]
    assert reader.give("resume").status_code == 403
    platform.reinstate(reader.person)
    assert reader.give("resume").json()["status"] == "training"
