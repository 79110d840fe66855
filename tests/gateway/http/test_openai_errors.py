"""Errors under /v1 have OpenAI's format, and the client raises the right exceptions."""

from __future__ import annotations

import pytest
from fastapi import Request
from fastapi.testclient import TestClient

from domain.core.errors import (
    DomainError,
    InsufficientBalance,
    Invalid,
    VersionConflict,
    WrongState,
)
from gateway.http.errors import FieldProblem, Problem
from gateway.http.openai_errors import answer

REQUEST = Request({"type": "http", "method": "GET", "path": "/v1/models", "headers": []})


def test_an_unknown_path_is_answered_in_the_shape_of_its_api(client: TestClient) -> None:
    response = client.get("/v1/nothing")
    assert response.status_code == 404
    error = {"message": "Not Found", "type": "invalid_request_error", "param": None}
    assert response.json() == {"error": error | {"code": "not_found"}}
    for path in ("/api/nothing", "/api/v1"):
        assert "type" not in client.get(path).json()["error"]


@pytest.mark.parametrize(
    ("status", "problem", "expected"),
    [
        (422, Problem(code=Invalid.code, message="no"), (400, "invalid_request_error")),
        (402, Problem(code=InsufficientBalance.code, message="no"), (402, "insufficient_quota")),
        (409, Problem(code=WrongState.code, message="no"), (409, "conflict_error")),
        (429, Problem(code="overloaded", message="no"), (429, "rate_limit_error")),
        (503, Problem(code="unavailable", message="no"), (503, "server_error")),
    ],
)
def test_a_status_has_its_type(status: int, problem: Problem, expected: tuple[int, str]) -> None:
    response = answer(REQUEST, status, problem, {})
    assert response.status_code == expected[0]
    assert f'"type":"{expected[1]}"'.encode() in response.body


@pytest.mark.parametrize(("error", "retry"), [(WrongState, "false"), (VersionConflict, None)])
def test_only_a_lost_race_is_tried_again(error: type[DomainError], retry: str | None) -> None:
    refused = answer(REQUEST, 409, Problem(code=error.code, message="no"), {})
    assert refused.headers.get("x-should-retry") == retry


def test_an_error_lists_all_problems_and_its_parameter_is_the_first() -> None:
    problems = [FieldProblem(field=name, message="no") for name in ("suffix", "seed")]
    response = answer(REQUEST, 422, Problem(code="invalid", message="", fields=problems), {})
    assert b'"message":"suffix: no; seed: no"' in response.body
    assert b'"param":"suffix"' in response.body
