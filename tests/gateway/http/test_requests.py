"""Rejected request contents: text that the database cannot store, and impossible dates.

Secrets of links that are kept out of logs and traces.
"""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from domain.access.role import Role
from gateway.app import is_untraced
from gateway.http.permissions import declared_routes
from tests.builders.platform import Platform

NUL = "a\x00b"
SECRET = "eco-secret"

WITH_NUL: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("GET", "/api/models/a%00b/files", {}),
    ("POST", "/api/models/a%00b/deploy", {}),
    ("GET", "/api/models", {"params": {"after": NUL}}),
    ("POST", "/api/operator/parked/a%00b/7/replay", {}),
    ("POST", "/api/datasets", {"params": {"name": NUL}, "content": b"{}"}),
    ("POST", "/api/accounts/{own}/credits", {"json": {"amount": "5", "reference": NUL}}),
    ("POST", "/api/accounts/{own}/credits", {"json": {"amount": "5", NUL: {"a": []}}}),
    ("POST", "/api/estimates", {"json": {"hyperparameters": {"target_modules": [NUL]}}}),
)


def test_null_characters_are_refused(client: TestClient, platform: Platform) -> None:
    """PostgreSQL stores no NUL. An event with one would stop every projection that processes it."""
    operator = platform.person(Role.OPERATOR)
    for method, path, further in WITH_NUL:
        own = path.replace("{own}", str(operator.account_id))
        answer = client.request(method, own, headers=operator.headers, **further)
        assert answer.status_code == 422, path
        assert "NUL" in answer.json()["error"]["message"]
    assert platform.topics()[-2:] == ["AccountOpened", "ApiKeyIssued"]


BODIES = (
    b'{"name": "a\\ud800"}',
    b'{"name": ["\\uDFFF\\ud83d"]}',
    b'{"name": "\xed\xa0\x80"}',
    b'{"\\uD800": 1}',
    '{"name": "a\\ud800"}'.encode("utf-16"),
)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/chat/completions", 400),
        ("/v1/fine_tuning/jobs", 400),
        ("/api/estimates", 422),
        ("/api/jobs", 422),
    ],
)
def test_half_a_character_is_refused(
    client: TestClient, platform: Platform, path: str, status: int
) -> None:
    headers = platform.person().headers | {"content-type": "application/json"}
    for body in BODIES:
        answer = client.post(path, content=body, headers=headers)
        assert answer.status_code == status
        assert "surrogate" in answer.json()["error"]["message"]
    whole = client.post(path, content=b'{"name": "\\ud83d\\ude00"}', headers=headers)
    assert "surrogate" not in whole.json()["error"]["message"]


def test_under_v1_too(client: TestClient, platform: Platform) -> None:
    answer = client.get("/v1/files/a%00b", headers=platform.person().headers)
    assert answer.status_code == 400
    assert "NUL" in answer.json()["error"]["message"]


def test_a_backslash_before_a_zero_is_no_null_character(
    client: TestClient, platform: Platform
) -> None:
    person = platform.person()
    written = (
        b'{"base_model": "a\\\\u0000", "dataset": "9b2d1c9e-6d1f-4a53-9a3e-2f1c5d7e8a90", '
        b'"region": "local", "gpu_type": "cpu"}'
    )
    headers = person.headers | {"content-type": "application/json"}
    answer = client.post("/api/estimates", content=written, headers=headers)
    assert "'a\\\\u0000'" in answer.json()["error"]["message"]


def test_a_statement_of_any_days_is_answered(client: TestClient, platform: Platform) -> None:
    person = platform.person(dollars=1)
    for path in ("days", "jobs", "days.csv", "jobs.csv"):
        for days, status in (
            ({"last": "0001-01-05"}, 422),
            ({"first": "9999-12-31"}, 422),
            ({"last": "9999-12-31"}, 200),
            ({"first": "0001-01-01", "last": "0001-01-02"}, 200),
            ({"first": "x"}, 422),
        ):
            url = f"/api/statements/{path}"
            answer = client.get(url, params=days, headers=person.headers)
            assert answer.status_code == status, (path, days, answer.text)


def test_the_secret_of_a_link_is_neither_logged_nor_traced(
    client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    assert isinstance(client.app, FastAPI)
    links = {route.path for route in declared_routes(client.app) if "{token}" in route.path}
    assert {"/sign-in/{token}", "/notices/confirm/{token}"} <= links
    with caplog.at_level("INFO", "gateway"):
        for link in links:
            path = link.replace("{token}", SECRET)
            assert is_untraced({"type": "http", "path": path}), link
            client.get(path)
    logged = "\n".join(each.getMessage() for each in caplog.records if each.name == "gateway")
    assert all(link.replace("{token}", "…") in logged for link in links)
    assert SECRET not in logged
