"""Errors under /v1 have OpenAI's format, and the client raises the right exceptions."""

from __future__ import annotations

import pytest
from fastapi import Request
from fastapi.testclient import TestClient

from domain.core.errors import InsufficientBalance, Invalid, VersionConflict, WrongState
from gateway.http.errors import FieldProblem, Problem
from gateway.http.openai_errors import answer

REQUEST = Request({"type": "http", "method": "GET", "path": "/v1/models", "headers": []})


def test_an_unknown_path_is_answered_in_openais_shape(client: TestClient) -> None:
    response = client.get("/v1/nothing")
    assert response.status_code == 404
    assert response.headers["x-request-id"]
    assert response.json() == {
        "error": {
            "message": "Not Found",
            "type": "invalid_request_error",
            "param": None,
            "code": "not_found",
        }
    }


def test_the_native_api_keeps_its_shape(client: TestClient) -> None:
    assert "type" not in client.get("/api/nothing").json()["error"]
    assert "type" not in client.get("/api/v1").json()["error"]


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


def test_only_a_lost_race_is_tried_again() -> None:
    refused = answer(REQUEST, 409, Problem(code=WrongState.code, message="no"), {})
    assert refused.headers["x-should-retry"] == "false"
    raced = answer(REQUEST, 409, Problem(code=VersionConflict.code, message="no"), {})
    assert "x-should-retry" not in raced.headers


def test_an_error_lists_all_problems_and_its_parameter_is_the_first() -> None:
    problems = [
        FieldProblem(field="suffix", message="too long"),
        FieldProblem(field="seed", message="no"),
    ]
    response = answer(REQUEST, 422, Problem(code="invalid", message="", fields=problems), {})
    assert b'"message":"suffix: too long; seed: no"' in response.body
    assert b'"param":"suffix"' in response.body
