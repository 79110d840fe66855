"""Limits of the queries for audit pages."""

from __future__ import annotations

from contextlib import ExitStack
from uuid import uuid4

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from domain.access.rights import Rights
from domain.access.role import Role
from domain.access.scope import Scope
from gateway.audit import access
from gateway.audit.access import reading
from gateway.backend import Backend
from gateway.http.access import Caller
from gateway.http.errors import TookTooLong
from infrastructure.limits import LIMITS
from infrastructure.postgres.store import Connection, scalar
from tests.builders.platform import Platform
from tests.gateway.web.signed_in import signed_in

PAGES = ("/audit", "/audit/events/1", "/audit/events/1/proof.json")


@pytest.fixture
def backend(client: TestClient) -> Backend:
    assert isinstance(client.app, FastAPI)
    return client.app.state.backend


@pytest.fixture
def caller() -> Caller:
    account_id = uuid4()
    rights = Rights(Role.AUDITOR, (Scope.READ,), None)
    return Caller(account_id, account_id, rights, uuid4(), "request")


def test_concurrent_audits_of_an_account_are_limited(
    client: TestClient, platform: Platform, backend: Backend
) -> None:
    auditor = platform.person(Role.AUDITOR)
    signed_in(client, auditor)
    most, slots = LIMITS["audits"].default, backend.quotas.slots
    with ExitStack() as held:
        for _ in range(most):
            held.enter_context(slots.hold("audits", auditor.account_id))
        for path in PAGES:
            refused = client.get(path)
            assert refused.status_code == 429, path
            assert refused.headers["x-ratelimit-limit-audits"] == str(most)
            assert "retry-after" in refused.headers
    assert client.get("/audit").status_code == 200
    assert not slots._taken, "every request frees its slots"


def test_concurrent_audits_of_a_gateway_are_limited(
    client: TestClient, platform: Platform, backend: Backend
) -> None:
    signed_in(client, platform.person(Role.AUDITOR))
    with ExitStack() as held:
        for _ in range(LIMITS["all_audits"].default):
            held.enter_context(backend.quotas.slots.hold("all_audits", None))
        assert client.get("/audit").status_code == 429
    assert client.get("/audit").status_code == 200


def test_many_short_fetches_end_at_the_deadline(
    backend: Backend, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "LONGEST_SECONDS", 0.5)
    with pytest.raises(TookTooLong):
        fetch_slowly(backend, caller)
    assert not backend.quotas.slots._taken


def test_a_long_query_ends_at_the_deadline(
    client: TestClient, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    signed_in(client, platform.person(Role.AUDITOR))

    monkeypatch.setattr(access, "LONGEST_SECONDS", 0.2)
    monkeypatch.setattr("gateway.audit.pages.search_of", lambda _, connection: slept(connection))
    answer = client.get("/audit")
    assert answer.status_code == 503
    assert "longer than" in answer.text


def fetch_slowly(backend: Backend, caller: Caller) -> None:
    """Fetch 10,000 rows, one at a time, 10 ms each."""
    rows = "SELECT pg_sleep(0.01) FROM generate_series(1, 10000)"
    with (
        reading(backend, caller) as connection,
        connection.transaction(),
        connection.cursor("rows") as cursor,
    ):
        cursor.itersize = 1
        for _ in cursor.execute(rows):
            pass


def slept(connection: Connection) -> None:
    scalar(connection, "SELECT pg_sleep(600)")
    raise AssertionError("the query had no deadline")


def test_a_short_query_is_not_ended(backend: Backend, caller: Caller) -> None:
    with reading(backend, caller) as connection:
        assert scalar(connection, "SELECT 1") == 1
        assert scalar(connection, "SHOW transaction_read_only") == "on"
