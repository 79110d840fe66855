"""What a request may hold: no text that the database cannot keep, no date that cannot be."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient

from domain.account import Role
from tests.gateway.conftest import World

NUL = "a\x00b"


@pytest.mark.parametrize(
    ("method", "path", "further"),
    [
        ("GET", "/api/models/a%00b/files", {}),
        ("POST", "/api/models/a%00b/deploy", {}),
        ("GET", "/api/models", {"params": {"after": NUL}}),
        ("POST", "/api/operator/parked/a%00b/7/replay", {}),
        ("POST", "/api/datasets", {"params": {"name": NUL}, "content": b"{}"}),
        ("POST", "/api/accounts/{own}/credits", {"json": {"amount": "5", "reference": NUL}}),
        ("POST", "/api/accounts/{own}/credits", {"json": {"amount": "5", NUL: {"a": []}}}),
        ("POST", "/api/estimates", {"json": {"hyperparameters": {"target_modules": [NUL]}}}),
    ],
)
def test_null_characters_are_refused(
    client: TestClient, world: World, method: str, path: str, further: dict[str, Any]
) -> None:
    """PostgreSQL keeps none, so that an event with one would stop every projection of it."""
    operator = world.person(Role.OPERATOR)
    own = path.replace("{own}", str(operator.account_id))
    answer = client.request(method, own, headers=operator.headers, **further)
    assert answer.status_code == 422
    assert "NUL" in answer.json()["error"]["message"]
    assert world.topics()[-2:] == ["AccountOpened", "ApiKeyIssued"]


def test_under_v1_too(client: TestClient, world: World) -> None:
    person = world.person()
    answer = client.get("/v1/files/a%00b", headers=person.headers)
    assert answer.status_code == 400
    assert "NUL" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "days",
    [{"last": "0001-01-05"}, {"first": "9999-12-31"}, {"last": "9999-12-31"}, {"first": "x"}],
)
@pytest.mark.parametrize("path", ["days", "jobs", "days.csv", "jobs.csv"])
def test_a_statement_of_any_days_is_answered(
    client: TestClient, world: World, path: str, days: dict[str, str]
) -> None:
    person = world.person(dollars=1)
    answer = client.get(f"/api/statements/{path}", params=days, headers=person.headers)
    assert answer.status_code in (200, 422)
