"""Errors under /v1 have OpenAI's format, and the client raises the right exceptions."""

from __future__ import annotations

from itertools import product
from uuid import uuid4

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
from tests.builders.platform import Platform

REQUEST = Request({"type": "http", "method": "GET", "path": "/v1/models", "headers": []})


def test_a_route_that_is_not_supported_has_the_error_of_its_api(
    client: TestClient, subtests: pytest.Subtests
) -> None:
    paths = ("/v1", "/v1/", "/v1/nothing", "/v1/audio/speech", "/v1/chat/completions/x/y")
    methods = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
    for method, path in product(methods, paths):
        with subtests.test(f"{method} {path}"):
            assert_not_supported(client, method, path)


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/v1/chat/completions"), ("PUT", "/v1/files"), ("DELETE", "/v1/fine_tuning/jobs")],
)
def test_a_wrong_method_of_a_route_is_not_supported(
    client: TestClient, method: str, path: str
) -> None:
    assert_not_supported(client, method, path)
    assert client.head(path).status_code in (401, 404)


def assert_not_supported(client: TestClient, method: str, path: str) -> None:
    response = client.request(method, path, content=b"{" if method != "GET" else None)
    error = response.json()["error"]
    assert "not supported" in error.pop("message")
    expected = {"type": "invalid_request_error", "param": None, "code": "not_supported"}
    assert (response.status_code, error) == (404, expected)


def test_an_unknown_object_or_path_of_another_api_keeps_its_error(
    client: TestClient, platform: Platform
) -> None:
    unknown = client.get(f"/v1/files/file-{uuid4().hex}", headers=platform.person().headers)
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "not_found")
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
