"""Invoices over the API."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from fastapi.testclient import TestClient

from domain.access.rights import KeyRequest
from domain.access.role import Role
from domain.access.scope import Scope
from extensions.invoices.domain.sealed_invoice import Result
from extensions.invoices.invoice_file import verify_file
from extensions.invoices.tables import invoices_requested_by
from infrastructure.http.limits import Limits
from infrastructure.postgres.store import connect
from tests.builders.platform import Person, Platform
from tests.extensions.invoices.bills import PUBLIC
from tests.gateway.api_user import ApiUser

Issue = Callable[[], None]

THIS_MONTH = {"month": f"{datetime.now(UTC):%Y-%m}"}
TODAY = str(datetime.now(UTC).date())


@pytest.fixture
def person(client: TestClient, platform: Platform) -> Person:
    """A person with $20 since now."""
    del client  # comes first: a gateway stops if its log is emptied
    return Platform(platform.settings, platform.log).person(dollars=20)


@pytest.fixture
def user(client: TestClient, person: Person) -> ApiUser:
    return ApiUser(client, person)


def requested(user: ApiUser, form: dict[str, str] = THIS_MONTH) -> Any:
    answer = user.post("/api/invoices", form)
    assert answer.status_code == 202, answer.text
    return answer.json()


@pytest.mark.parametrize("kind", ["pdf", "json"])
def test_an_invoice_is_requested_issued_downloaded_and_verified(
    user: ApiUser, issue: Issue, kind: str
) -> None:
    invoice = requested(user)
    path = f"/api/invoices/{invoice['id']}"
    file = f"{path}/invoice.{kind}"
    assert invoice["status"] == "preparing"
    assert invoice["is_complete"] is False  # the month is not over
    early = user.get(file)
    assert (early.status_code, early.json()["error"]["code"]) == (409, "wrong_state")

    issue()
    ready = user.get(path).json()
    assert ready["status"] == "ready"
    assert ready["closing"]["micros"] == 20_000_000
    assert ready["charges"]["micros"] == 0
    assert not ready["is_complete"]
    assert user.list("/api/invoices") == [ready]
    downloaded = user.get(file)
    assert downloaded.headers["content-type"].startswith(f"application/{kind}")
    assert kind in downloaded.headers["content-disposition"]
    verified = verify_file(downloaded.content, PUBLIC)
    assert verified.result is Result.COMPLETENESS_NOT_PROVEN
    assert verified.invoice is not None
    assert verified.invoice.credits_micros == 20_000_000


def test_a_waiting_request_is_not_repeated(user: ApiUser) -> None:
    assert requested(user) == requested(user)
    assert len(user.list("/api/invoices")) == 1


def test_days_give_another_invoice_than_the_month(user: ApiUser, issue: Issue) -> None:
    month = requested(user)
    days = requested(user, {"first": TODAY, "last": TODAY})
    issue()
    assert {each["id"] for each in user.list("/api/invoices")} == {month["id"], days["id"]}
    assert all(each["status"] == "ready" for each in user.list("/api/invoices"))


def test_no_other_account_sees_an_invoice(
    user: ApiUser, client: TestClient, platform: Platform, issue: Issue
) -> None:
    invoice = requested(user)
    issue()
    other = ApiUser(client, platform.person())
    for path in ("", "/invoice.pdf", "/invoice.json"):
        answer = other.get(f"/api/invoices/{invoice['id']}{path}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    assert other.get(f"/api/invoices/{uuid4()}").status_code == 404
    assert other.list("/api/invoices") == []


def test_an_auditor_requests_and_reads_the_invoices_of_any_account(
    user: ApiUser, client: TestClient, platform: Platform, issue: Issue
) -> None:
    headers = {
        **platform.person(Role.AUDITOR).headers,
        "ecolink-account": str(user.person.account_id),
    }
    answer = client.post("/api/invoices", json=THIS_MONTH, headers=headers)
    assert answer.status_code == 202
    issue()
    path = f"/api/invoices/{answer.json()['id']}/invoice.pdf"
    assert client.get(path, headers=headers).content == user.get(path).content


def test_wrong_days_are_refused_with_their_field(user: ApiUser, subtests: pytest.Subtests) -> None:
    for form, field, reason in (
        ({}, "month", "either a month"),
        ({"month": "2026-10", "first": TODAY, "last": TODAY}, "month", "either a month"),
        ({"first": TODAY}, "month", "either a month"),
        ({"month": "2026-13"}, "month", "'2026-13' is not a month"),
        ({"month": "2999-01"}, "month", "has not begun"),
        ({"month": "2001-01"}, "month", "was opened"),
        ({"first": "2001-01-01", "last": "2001-01-02"}, "last", "was opened"),
        ({"month": "9999-12"}, "month", "'9999-12' is not a month"),
        ({"first": TODAY, "last": "2999-01-02"}, "last", "has not begun"),
        ({"first": TODAY, "last": "2001-01-02"}, "last", "before the first day"),
        ({"first": "soon", "last": TODAY}, "first", "date"),
        ({"first": "0001-01-01", "last": "9999-12-31"}, "last", "has not begun"),
    ):
        with subtests.test(str(form)):
            answer = user.post("/api/invoices", form)
            assert answer.status_code == 422
            error = answer.json()["error"]
            named = error.get("fields") or [error]
            assert named[0]["field"] == field
            assert reason in named[0]["message"]
            assert user.list("/api/invoices") == []


def test_a_file_that_is_not_the_invoice_is_not_sent(
    user: ApiUser, client: TestClient, platform: Platform, issue: Issue
) -> None:
    """Given a valid invoice of another account in its place."""
    other = ApiUser(client, platform.person(dollars=5))
    mine, theirs = requested(user), requested(other)
    issue()
    for kind in ("pdf", "json"):
        place = "invoices/{}/invoice." + kind
        content = platform.artifacts.get(place.format(theirs["id"]))
        for wrong in (content, content[:-1] + b"x"):
            platform.artifacts.put(place.format(mine["id"]), wrong)
            answer = user.get(f"/api/invoices/{mine['id']}/invoice.{kind}")
            assert (answer.status_code, answer.json()["error"]["code"]) == (409, "wrong_state")
            assert "not the invoice that the sealer signed" in answer.json()["error"]["message"]


def test_the_quota_counts_the_invoices_that_an_account_requested(
    user: ApiUser, client: TestClient, platform: Platform, issue: Issue
) -> None:
    """An auditor cannot use up the quota of another account."""
    auditor = platform.person(Role.AUDITOR)
    headers = {**auditor.headers, "ecolink-account": str(user.person.account_id)}
    assert client.post("/api/invoices", json=THIS_MONTH, headers=headers).status_code == 202
    issue()
    requested(user)
    with connect(platform.settings) as connection:
        assert invoices_requested_by(connection, auditor.account_id) == 1
        assert invoices_requested_by(connection, user.person.account_id) == 1


def test_requests_are_limited(user: ApiUser) -> None:
    for _ in range(Limits({})["invoice_requests"]):
        requested(user)
    refused = user.post("/api/invoices", THIS_MONTH)
    assert refused.status_code == 429
    assert "retry-after" in refused.headers


def test_a_read_only_key_may_request_and_read_invoices(
    client: TestClient, person: Person, platform: Platform
) -> None:
    """An invoice is calculated from the log, which the key may read, and changes nothing."""
    headers = platform.key(person.account_id, KeyRequest(scopes=[Scope.READ])).headers
    body = {"month": "2026-01"}
    assert client.post("/api/invoices", json=body, headers=headers).status_code != 403
    assert client.get("/api/invoices", headers=headers).status_code == 200
