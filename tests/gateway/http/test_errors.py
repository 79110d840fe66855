"""Error responses have one format and hide internal details."""

from __future__ import annotations

import logging
from unittest.mock import Mock

import psycopg
import pytest
from fastapi.exceptions import RequestValidationError
from fastapi.testclient import TestClient
from obstore.exceptions import GenericError
from pydantic import ValidationError

from domain.core import errors as domain_errors
from domain.core.errors import DomainError
from domain.core.event_format import NewerEvent
from domain.use_cases.accounts import EcoLink
from gateway.http.errors import STATUSES
from gateway.http.field_names import refused_fields
from gateway.http.requests import JSON_BYTES
from gateway.jobs.openai.form import CreateJob
from tests.builders.platform import Platform


def test_every_refusal_has_a_status() -> None:
    kinds = {
        kind
        for kind in vars(domain_errors).values()
        if isinstance(kind, type) and issubclass(kind, DomainError) and kind is not DomainError
    }
    assert [kind for kind in kinds if not STATUSES.keys() & set(kind.__mro__)] == []


def test_an_error_lists_all_problems_of_a_form(client: TestClient, platform: Platform) -> None:
    answer = client.post(
        "/api/jobs",
        json={
            "dataset": "none",
            "gpu_count": 0,
            "surprise": 1,
            "hyperparameters": {"lora_r": 0, "epochs": "3", "dropout": 1.5},
        },
        headers=platform.person().headers,
    )
    assert answer.status_code == 422
    error = answer.json()["error"]
    assert error["code"] == "invalid"
    assert {problem["field"] for problem in error["fields"]} == {
        "dataset",
        "base_model",
        "gpu_count",
        "surprise",
        "hyperparameters.lora_r",
        "hyperparameters.epochs",
        "hyperparameters.dropout",
    }
    assert all(problem["message"] for problem in error["fields"])


@pytest.mark.parametrize(
    ("value", "ought"),
    [
        (0, "Input should be 'auto' or greater than or equal to 1"),
        (2.5, "Input should be 'auto' or a valid integer"),
    ],
)
def test_a_field_with_alternatives_has_one_problem(value: float, ought: str) -> None:
    body = {
        "model": "tiny",
        "training_file": "file-x",
        "hyperparameters": {"batch_size": value},
        "seed": "x",
    }
    with pytest.raises(ValidationError) as refused:
        CreateJob.model_validate(body)
    problems = [{**each, "loc": ("body", *each["loc"])} for each in refused.value.errors()]
    told = refused_fields(RequestValidationError(problems, body=body))
    assert told == {"hyperparameters.batch_size": ought, "seed": "Input should be a valid integer"}


def test_framework_errors_have_the_same_format(client: TestClient) -> None:
    for answer, status, code in (
        (client.get("/api/nothing"), 404, "not_found"),
        (client.delete("/api/jobs"), 405, "method_not_allowed"),
    ):
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
        assert answer.headers["x-request-id"]


def test_an_internal_error_shows_only_its_request_id(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(self: EcoLink, secret: str) -> None:
        raise RuntimeError("password=hunter2")

    monkeypatch.setattr(EcoLink, "authenticate", fail)
    with caplog.at_level(logging.ERROR, "gateway"):
        answer = client.get("/api/account", headers={"authorization": "Bearer eco_x"})
    request_id = answer.headers["x-request-id"]
    assert answer.status_code == 500
    assert "hunter2" not in answer.text
    assert request_id in answer.json()["error"]["message"]
    assert any(request_id in record.getMessage() for record in caplog.records)


def test_an_unreachable_store_is_named(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    for away, words in (
        (psycopg.OperationalError("10.0.0.1"), "database"),
        (GenericError("10.0.0.1"), "artifact store"),
    ):
        monkeypatch.setattr(EcoLink, "authenticate", Mock(side_effect=away))
        answer = client.get("/api/account", headers={"authorization": "Bearer eco_x"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
        assert words in answer.json()["error"]["message"]
        assert answer.headers["retry-after"]


def test_a_gateway_that_is_too_old_asks_to_try_again(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EcoLink, "authenticate", Mock(side_effect=NewerEvent("JobApproved")))
    answer = client.get("/api/account", headers={"authorization": "Bearer eco_x"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
    assert answer.headers["retry-after"]


def test_the_size_of_a_body_is_limited(client: TestClient, platform: Platform) -> None:
    answer = client.post(
        "/api/jobs",
        content=b'"' + b"x" * JSON_BYTES + b'"',
        headers=platform.person().headers | {"content-type": "application/json"},
    )
    assert answer.status_code == 413
    assert f"{JSON_BYTES:,}" in answer.json()["error"]["message"]
